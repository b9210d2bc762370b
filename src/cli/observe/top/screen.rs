//! What `ripstop top` shows, without a terminal: answers and keys go in, a picture comes out.
//!
//! ```text
//!   services, one a row, sorted; one of them is selected
//!   what the selected one serves, calls, publishes, pulls
//!   the keys
//! ```

use std::collections::BTreeMap;

use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};
use ripstop::observe::{CallStats, NodeStats};

use crate::observe::{stats::per_second, took};

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    On,
    Quit,
}

/// What the services are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Name,
    Rate,
    Errors,
    P99,
    Waiting,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Name, Self::Rate, Self::Errors, Self::P99, Self::Waiting];

    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::P99 => "p99",
            Self::Waiting => "waiting",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// One service, all instances together.
#[derive(Default)]
struct Service {
    name: String,
    answered: usize,
    silent: usize,
    /// All that its handlers do: methods and queues.
    all: CallStats,
    waiting: u64,
    kept: u64,
    dead: u64,
    /// What it does, and what with.
    parts: BTreeMap<(u8, String), Part>,
}

#[derive(Default)]
struct Part {
    calls: Option<CallStats>,
    rate: f64,
    waiting: u64,
    total: u64,
    failed: u64,
}

const PARTS: [&str; 7] = ["serves", "works on", "pulls", "hears", "publishes", "pushes", "calls"];

/// One look at everybody.
#[derive(Default)]
pub(super) struct Seen {
    services: Vec<Service>,
    /// Why somebody has not told.
    trouble: Option<String>,
}

impl Seen {
    pub(super) fn of(answers: impl Iterator<Item = (String, Result<NodeStats, String>)>) -> Self {
        let (mut services, mut trouble) = (BTreeMap::<String, Service>::new(), None);
        for (name, answer) in answers {
            let service = services.entry(name.clone()).or_default();
            service.name = name;
            match answer {
                Ok(stats) => service.add(&stats),
                Err(error) => {
                    service.silent += 1;
                    trouble.get_or_insert(format!("{}: {error}", service.name));
                }
            }
        }
        Self { services: services.into_values().collect(), trouble }
    }
}

impl Service {
    fn add(&mut self, stats: &NodeStats) {
        self.answered += 1;
        for (part, calls) in [(0, &stats.served), (1, &stats.worked), (6, &stats.called)] {
            for one in calls {
                if part != 6 {
                    self.all.add(one);
                    self.waiting = self.waiting.saturating_add(one.waiting);
                }
                let part = self.parts.entry((part, one.name.clone())).or_default();
                part.calls.get_or_insert_default().add(one);
            }
        }
        for (part, flows) in
            [(2, &stats.pulled), (3, &stats.subscribed), (4, &stats.published), (5, &stats.pushed)]
        {
            for one in flows {
                self.waiting = self.waiting.saturating_add(one.waiting);
                let part = self.parts.entry((part, one.name.clone())).or_default();
                part.rate += one.rate;
                part.waiting = part.waiting.saturating_add(one.waiting);
                part.total = part.total.saturating_add(one.total);
                part.failed = one.dropped.values().fold(part.failed, |sum, count| sum.saturating_add(*count));
            }
        }
        if let Some(store) = &stats.store {
            self.kept = self.kept.saturating_add(store.items);
            self.dead = self.dead.saturating_add(store.letters);
        }
    }
}

/// What is shown, and how.
pub(super) struct Screen {
    fabric: String,
    seen: Option<Seen>,
    sort: Sort,
    /// By name, so that it stays the same service however they are sorted.
    selected: Option<String>,
    paused: bool,
}

impl Screen {
    pub(super) fn new(fabric: &str) -> Self {
        Self { fabric: fabric.to_owned(), seen: None, sort: Sort::Rate, selected: None, paused: false }
    }

    pub(super) fn show(&mut self, seen: Seen) {
        if self.paused {
            return;
        }
        self.seen = Some(seen);
        self.sorted();
    }

    fn sorted(&mut self) {
        let Some(seen) = &mut self.seen else { return };
        let descending = |a: f64, b: f64| b.total_cmp(&a);
        let sort = self.sort;
        seen.services.sort_by(|a, b| {
            let by = match sort {
                Sort::Name => std::cmp::Ordering::Equal,
                Sort::Rate => descending(a.all.rate, b.all.rate),
                Sort::Errors => descending(a.all.error_rate, b.all.error_rate),
                Sort::P99 => b.all.p99_us.cmp(&a.all.p99_us),
                Sort::Waiting => b.waiting.cmp(&a.waiting),
            };
            by.then_with(|| a.name.cmp(&b.name))
        });
    }

    fn services(&self) -> &[Service] {
        self.seen.as_ref().map_or(&[], |seen| &seen.services)
    }

    /// The first one, as long as nobody has chosen.
    fn selection(&self) -> usize {
        let is_it = |service: &Service| Some(&service.name) == self.selected.as_ref();
        self.services().iter().position(is_it).unwrap_or(0)
    }

    pub(super) fn key(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Next {
        let last = self.services().len().saturating_sub(1);
        let at = self.selection();
        let to = match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Next::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.sorted();
                return Next::On;
            }
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                return Next::On;
            }
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (at + 1).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => return Next::On,
        };
        self.selected = self.services().get(to).map(|service| service.name.clone());
        Next::On
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let rows = self.services().len() as u16 + 1;
        // The services have what they need, but never more than half.
        let upper = rows.clamp(2, (frame.area().height / 2).max(3));
        let [head, services, gap, details, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(upper),
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        if self.services().is_empty() {
            let text = if self.seen.is_some() { " nobody is there" } else { " looking …" };
            frame.render_widget(Paragraph::new(text), services);
        } else {
            self.draw_services(frame, services);
            self.draw_parts(frame, gap, details);
        }
        frame.render_widget(self.foot(), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let instances: usize = self.services().iter().map(|service| service.answered + service.silent).sum();
        let mut line = Line::from(vec![
            " ripstop top".bold(),
            Span::raw(format!("   fabric {}", self.fabric)),
            Span::raw(format!("   {} services, {instances} instances", self.services().len())),
        ]);
        if self.paused {
            line.push_span("   paused".yellow().bold());
        }
        if let Some(trouble) = self.seen.as_ref().and_then(|seen| seen.trouble.as_ref()) {
            line.push_span(Span::raw(format!("   {trouble}")).red());
        }
        Paragraph::new(line)
    }

    fn foot(&self) -> Paragraph<'_> {
        let key = |key: &'static str| {
            Span::styled(format!(" {key} "), Style::new().add_modifier(Modifier::REVERSED))
        };
        Paragraph::new(Line::from(vec![
            Span::raw(" "),
            key("s"),
            Span::raw(format!(" sort: {}  ", self.sort.name())),
            key("↑↓"),
            Span::raw(" select  "),
            key("p"),
            Span::raw(if self.paused { " go on  " } else { " pause  " }),
            key("q"),
            Span::raw(" quit"),
        ]))
    }

    fn draw_services(&self, frame: &mut Frame<'_>, area: Rect) {
        let sort = self.sort;
        let title = move |name: &'static str, by: Sort| {
            let cell = Cell::from(Line::from(name).right_aligned());
            if by == sort { cell.style(Style::new().add_modifier(Modifier::UNDERLINED)) } else { cell }
        };
        let plain = |name: &'static str| Cell::from(Line::from(name).right_aligned());
        let header = Row::new([
            Cell::from(" SERVICE"),
            plain("INST"),
            title("RATE", Sort::Rate),
            title("ERRORS", Sort::Errors),
            plain("P50"),
            title("P99", Sort::P99),
            plain("NOW"),
            title("WAIT", Sort::Waiting),
            plain("KEPT"),
            plain("DEAD"),
        ]);
        let rows = self.services().iter().map(|service| {
            let instances = match service.silent {
                0 => Line::from(service.answered.to_string()),
                silent => Line::from(format!("{}/{}", service.answered, service.answered + silent)).red(),
            };
            Row::new(vec![
                Cell::from(format!(" {}", service.name)),
                Cell::from(instances.right_aligned()),
                right(per_second(service.all.rate)),
                alarm(per_second(service.all.error_rate), service.all.error_rate > 0.0),
                right(took(service.all.p50())),
                right(took(service.all.p99())),
                right(count(service.all.in_flight)),
                alarm(count(service.waiting), false),
                right(count(service.kept)),
                alarm(count(service.dead), service.dead > 0),
            ])
        });
        let widths = [
            Constraint::Min(10),
            Constraint::Length(5),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Length(6),
            Constraint::Length(5),
        ];
        let table = Table::new(rows, widths)
            .header(header.style(Style::new().fg(Color::Cyan)))
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(self.selection());
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_parts(&self, frame: &mut Frame<'_>, title: Rect, area: Rect) {
        let Some(service) = self.services().get(self.selection()) else { return };
        let rule = "─".repeat(usize::from(title.width).saturating_sub(service.name.chars().count() + 3));
        frame.render_widget(
            Line::from(vec![" ".into(), service.name.clone().bold(), format!(" {rule}").dim()]),
            title,
        );
        let plain = |name: &'static str| Cell::from(Line::from(name).right_aligned());
        let header = Row::new([
            Cell::from(" WHAT"),
            Cell::from("NAME"),
            plain("RATE"),
            plain("ERRORS"),
            plain("P50"),
            plain("P99"),
            plain("WAIT"),
            plain("TOTAL"),
            plain("FAILED"),
        ]);
        let rows = service.parts.iter().map(|((what, name), part)| {
            let what = Cell::from(format!(" {}", PARTS.get(usize::from(*what)).copied().unwrap_or_default()));
            let name = Cell::from(name.clone());
            match &part.calls {
                Some(calls) => Row::new(vec![
                    what,
                    name,
                    right(per_second(calls.rate)),
                    alarm(per_second(calls.error_rate), calls.error_rate > 0.0),
                    right(took(calls.p50())),
                    right(took(calls.p99())),
                    right(count(calls.waiting)),
                    right(count(calls.total)),
                    right(count(calls.failed())),
                ]),
                None => Row::new(vec![
                    what,
                    name,
                    right(per_second(part.rate)),
                    right("-".into()),
                    right("-".into()),
                    right("-".into()),
                    right(count(part.waiting)),
                    right(count(part.total)),
                    right(count(part.failed)),
                ]),
            }
        });
        let widths = [
            Constraint::Length(10),
            Constraint::Min(13),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Length(6),
            Constraint::Length(6),
        ];
        let table =
            Table::new(rows, widths).header(header.style(Style::new().fg(Color::Cyan))).column_spacing(1);
        frame.render_widget(table, area);
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn alarm(text: String, is_on: bool) -> Cell<'static> {
    let cell = right(text);
    if is_on { cell.style(Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)) } else { cell }
}

/// In five places: `12345`, `123k`, `12M`.
fn count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn stats(service: &str, text: serde_json::Value) -> (String, Result<NodeStats, String>) {
        let mut text = text;
        text["service"] = service.into();
        (service.to_owned(), Ok(serde_json::from_value(text).unwrap()))
    }

    fn shop() -> Seen {
        let method = |name: &str, rate: f64, p99: u64| {
            serde_json::json!({
                "name": name, "total": 4200, "errors": {"RS0416": 7}, "in_flight": 3, "rate": rate, "error_rate": 0.5,
                "p50_us": p99 / 4, "p99_us": p99, "latency": [[100, 10]], "waiting": 2,
            })
        };
        Seen::of(
            [
                stats("pricing", serde_json::json!({"served": [method("pricing.quote", 120.0, 11_090)]})),
                stats("pricing", serde_json::json!({"served": [method("pricing.quote", 30.5, 9_000)]})),
                stats(
                    "orders",
                    serde_json::json!({
                        "called": [method("pricing.quote", 150.5, 12_000)],
                        "published": [{"name": "orders.created", "total": 150, "rate": 75.0}],
                        "store": {"items": 12, "letters": 1},
                    }),
                ),
                ("mailer".to_owned(), Err("no answer within 2 s".to_owned())),
                stats(
                    "ledger",
                    serde_json::json!({"subscribed": [{"name": "orders.*", "total": 150, "waiting": 5}]}),
                ),
            ]
            .into_iter(),
        )
    }

    fn picture(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn everything_has_room_in_80_by_24() {
        let mut screen = Screen::new("shop");
        screen.show(shop());
        let lines = picture(&screen, 80, 24);
        let text = lines.join("\n");
        assert!(lines[0].contains("fabric shop   4 services, 5 instances"), "{text}");
        assert!(lines[1].starts_with(" SERVICE") && lines[1].ends_with("DEAD"), "{text}");
        let pricing = lines[2].split_whitespace().collect::<Vec<_>>();
        assert_eq!(pricing[..4], ["pricing", "2", "150/s", "1.0/s"], "{text}");
        assert!(text.contains(" 0/1 "), "who does not answer is told:\n{text}");
        assert!(lines[6].starts_with(" pricing ──"), "{text}");
        assert!(text.contains(" serves    pricing.quote "), "{text}");
        assert!(lines[23].contains("sort: rate") && lines[23].contains("quit"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn keys_sort_select_pause_and_quit() {
        let mut screen = Screen::new("shop");
        screen.show(shop());
        let press = |screen: &mut Screen, key| screen.key(key, KeyModifiers::NONE);
        assert_eq!(screen.services()[0].name, "pricing");
        press(&mut screen, KeyCode::Down);
        let selected = screen.selected.clone().unwrap();
        for sort in ["errors", "p99", "waiting", "name"] {
            press(&mut screen, KeyCode::Char('s'));
            assert_eq!(screen.sort.name(), sort);
            assert_eq!(screen.services()[screen.selection()].name, selected, "the selection stays");
        }
        assert_eq!(screen.services()[0].name, "ledger", "by name");
        press(&mut screen, KeyCode::End);
        assert_eq!(screen.services()[screen.selection()].name, "pricing");
        press(&mut screen, KeyCode::Char('p'));
        screen.show(Seen::default());
        assert_eq!(screen.services().len(), 4, "paused");
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Next::Quit);
        assert_eq!(screen.key(KeyCode::Char('c'), KeyModifiers::CONTROL), Next::Quit);
    }

    #[test]
    fn any_size_will_do() {
        let mut screen = Screen::new("shop");
        for (width, height) in [(1, 1), (10, 3), (80, 5), (200, 60)] {
            picture(&screen, width, height);
        }
        screen.show(shop());
        for (width, height) in [(1, 1), (10, 3), (80, 5), (200, 60)] {
            picture(&screen, width, height);
        }
    }
}
