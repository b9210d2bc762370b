//! `ripstop demo`: a small shop as separate processes that find each other, lose three of them, and miss nothing.
//!
//! ```text
//!   orders ✝ ──call──▶ pricing-1 ✝  pricing-2  pricing-3 (started half-way, when pricing-1 is killed)
//!     ├──keep────────▶ ledger
//!     └──push────────▶ mailer-1 ✝  mailer-2
//! ```

mod orders_csv;
mod report;
mod roles;
mod sent;
mod shop;
mod stage;
mod talk;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use ripstop::{Node, config::AllowRule};
use tokio::time::{Instant, timeout_at};

use self::{
    report::Summary,
    stage::{Heard, Stage, What},
    talk::{Ask, Report, Say},
};
use crate::{
    args::{Common, DemoArgs, Role, RoleArgs},
    exit::{Exit, Failure},
    output::Output,
    stop::stop,
};

/// Nothing at all moved for this long: something is broken.
const STUCK: Duration = Duration::from_secs(20);
/// A dead peer is noticed in 6 s at the latest; more than that is a failure to be shown, not waited for.
const NOTICE: Duration = Duration::from_secs(8);
/// What is on its way at the end arrives within this, or is reported as missing.
const SETTLE: Duration = Duration::from_secs(3);

/// One process of the shop.
pub(crate) async fn role(args: RoleArgs) -> Result<(), Failure> {
    let service = stage::service(args.role);
    let mut node = Node::builder(service)
        .fabric(&args.fabric)
        .version(env!("CARGO_PKG_VERSION"))
        .metadata("name", &args.name)
        .mdns(false);
    if matches!(args.role, Role::Orders | Role::Mailer) {
        // What it owes, and what it has done, in the next life too.
        node = node.data_dir(args.dir.join(&args.name));
    }
    if let Some(keys) = &args.keys {
        // Everyone pulls only what begins with its own name, unless a rule says more.
        let pull = Some(vec![roles::EMAILS.to_owned()]);
        node = node.keys(keys).allow(AllowRule { pull, ..AllowRule::new("mailer") });
    }
    let node = node.start().await?;
    let done = match args.role {
        Role::Pricing => roles::pricing(&node).await,
        Role::Orders => shop::orders(&node, args.input.as_deref(), &args.dir).await,
        Role::Mailer => roles::mailer(&node, &args.name, &args.dir).await,
        Role::Ledger => roles::ledger(&node).await,
    };
    // The end was asked for, and there is nothing left to flush.
    let _ = tokio::time::timeout(Duration::from_secs(1), node.drain()).await;
    done
}

/// The whole demo.
pub(crate) async fn run(common: &Common, args: DemoArgs, mut out: Output) -> Result<(), Failure> {
    // Mistakes in the file are told before anything starts.
    let given =
        args.input.as_deref().map(|path| Ok::<_, Failure>((path, orders_csv::read(path)?))).transpose()?;
    let total = match &given {
        Some((path, bytes)) => orders_csv::parse(&path.display().to_string(), bytes)?,
        None => orders_csv::load(None)?,
    }
    .len() as u64;
    #[cfg(feature = "tls")]
    let secure = args.secure || !args.plain;
    #[cfg(not(feature = "tls"))]
    let secure = false;
    let stage = Stage::open(common.verbose, secure)?;
    // A copy, because a pipe can be read only once, and a file may change.
    let input = given.map(|(_, bytes)| stage.keep("orders.csv", &bytes)).transpose()?;
    let mut show = Show {
        stage,
        progress: progress(total),
        total,
        orders: 0,
        victim: 0,
        mailer: 2,
        input,
        killed: None,
        noticed: None,
        replacement: None,
        restarted: false,
        began: Instant::now(),
        took: Duration::ZERO,
        moved: Instant::now(),
    };
    let limit = common.timeout.map(|limit| Instant::now() + limit);
    let played = tokio::select! {
        played = show.play() => played,
        () = stop() => Err(Failure::failed("interrupted")),
        () = until(limit) => Err(Failure::new(Exit::Deadline, "the demo did not end in the time given")),
    };
    show.progress.finish_and_clear();
    let played = match played {
        Ok(()) => show.reports().await,
        Err(failure) => Err(failure),
    };
    let mailers = sent::count(show.stage.dir()).map_err(Failure::failed);
    let summary = played.and_then(|reports| Ok(Summary::new(&show, reports, mailers?)));
    show.stage.close().await;
    let summary = summary?;
    summary.print(&mut out)?;
    out.flush()?;
    match summary.shortfall() {
        None => Ok(()),
        Some(shortfall) => Err(Failure::failed(shortfall)),
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A line on standard error, on a terminal only.
fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:12} {pos:>5} of {len} priced  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// The demo while it runs.
struct Show {
    stage: Stage,
    progress: ProgressBar,
    total: u64,
    /// The actor that is the orders process.
    orders: usize,
    /// The actors that are killed half-way.
    victim: usize,
    mailer: usize,
    killed: Option<Instant>,
    noticed: Option<Duration>,
    /// The node started in place of the victim.
    replacement: Option<String>,
    /// The orders process was killed and started again.
    restarted: bool,
    input: Option<PathBuf>,
    began: Instant,
    took: Duration,
    moved: Instant,
}

impl Show {
    async fn play(&mut self) -> Result<(), Failure> {
        for (role, name) in [
            (Role::Pricing, "pricing-1"),
            (Role::Pricing, "pricing-2"),
            (Role::Mailer, "mailer-1"),
            (Role::Mailer, "mailer-2"),
            (Role::Ledger, "ledger"),
        ] {
            self.stage.start(role, name, None)?;
        }
        self.start_orders()?;

        let mut done = None;
        while done.is_none() {
            done = self.next(self.moved + STUCK).await?;
        }
        let Some(Report::Orders(done)) = done else {
            return Err(Failure::failed("the orders process reported something else"));
        };
        self.took = self.began.elapsed();
        // What the others have not yet counted is on its way.
        while !(self.done(Role::Ledger) >= done.priced && self.done(Role::Mailer) >= done.priced)
            && self.moved.elapsed() < SETTLE
        {
            let until = self.moved + SETTLE;
            let _ = timeout_at(until, self.next(until)).await;
        }
        if let Some(killed) = self.killed {
            while self.noticed.is_none() && killed.elapsed() < NOTICE {
                let _ = timeout_at(killed + NOTICE, self.next(killed + NOTICE)).await;
            }
        }
        Ok(())
    }

    fn start_orders(&mut self) -> Result<(), Failure> {
        self.orders = self.stage.actors.len();
        self.stage.start(Role::Orders, "orders", self.input.as_deref())
    }

    /// What the processes of one role have done together. One that was started again knows what it had done.
    fn done(&self, role: Role) -> u64 {
        let of_role = self.stage.actors.iter().filter(|actor| actor.role == role);
        let latest: BTreeMap<&str, u64> = of_role.map(|actor| (&*actor.name, actor.done)).collect();
        latest.values().sum()
    }

    /// Once the death of pricing-1 was noticed and its replacement is up, orders has to die, too.
    async fn kill_orders(&mut self) -> Result<(), Failure> {
        if self.noticed.is_some() && self.replacement.is_some() && !self.restarted {
            self.restarted = true;
            self.stage.kill(self.orders).await?;
            self.start_orders()?;
        }
        Ok(())
    }

    /// Hears one thing and acts on it; a final report is handed on.
    async fn next(&mut self, until: Instant) -> Result<Option<Report>, Failure> {
        let heard = timeout_at(until, self.stage.hear()).await;
        let Ok(Heard { from, what }) = heard else {
            return Err(Failure::new(Exit::Deadline, "the shop is stuck: nothing has moved for a while"));
        };
        let Some(actor) = self.stage.actors.get_mut(from) else { return Ok(None) };
        match what {
            What::Complained(line) => self.progress.suspend(|| {
                crate::output::remark(format!("{}: {line}", self.stage.actors[from].name));
            }),
            What::Ended if actor.killed => {}
            What::Ended => return Err(Failure::failed(format!("{} has ended by itself", actor.name))),
            What::Said(Say::Progress { done }) => {
                if actor.done != done {
                    actor.done = done;
                    self.moved = Instant::now();
                }
            }
            What::Said(Say::Ready { node }) => {
                actor.node = Some(node.clone());
                self.moved = Instant::now();
                if actor.name == "pricing-3" {
                    self.replacement = Some(node);
                    self.kill_orders().await?;
                } else if let Some(node) = self.replacement.clone().filter(|_| from == self.orders) {
                    self.stage.ask(self.orders, &Ask::Replaced { node }).await?;
                }
            }
            What::Said(Say::Half) if self.killed.is_some() => {}
            What::Said(Say::Half) => {
                self.stage.kill(self.victim).await?;
                self.killed = Some(Instant::now());
                self.stage.start(Role::Pricing, "pricing-3", None)?;
                self.stage.kill(self.mailer).await?;
                self.stage.start(Role::Mailer, "mailer-1", None)?;
            }
            What::Said(Say::Left { node }) => {
                let victim = &self.stage.actors[self.victim];
                if victim.node == Some(node) && self.noticed.is_none() {
                    self.noticed = self.killed.map(|killed| killed.elapsed());
                    self.kill_orders().await?;
                }
            }
            What::Said(Say::Report(report)) => {
                self.moved = Instant::now();
                return Ok(Some(report));
            }
        }
        self.show();
        Ok(None)
    }

    fn show(&self) {
        self.progress.set_position(self.done(Role::Orders));
        let death = match (self.killed, self.noticed) {
            (None, _) => String::new(),
            (Some(_), None) => ", pricing-1 killed".into(),
            (Some(_), Some(after)) => format!(", death noticed in {} ms", after.as_millis()),
        };
        let (events, mails) = (self.done(Role::Ledger), self.done(Role::Mailer));
        self.progress.set_message(format!("{events} events, {mails} mails{death}"));
    }

    /// The final count of every process that lives.
    async fn reports(&mut self) -> Result<Vec<(usize, Report)>, Failure> {
        let alive: Vec<_> = (0..self.stage.actors.len()).filter(|i| !self.stage.actors[*i].killed).collect();
        for actor in &alive {
            self.stage.ask(*actor, &Ask::Report).await?;
        }
        let end = Instant::now() + SETTLE;
        let mut reports = Vec::new();
        while reports.len() < alive.len() {
            let Ok(heard) = timeout_at(end, self.stage.hear()).await else {
                return Err(Failure::failed("not every process has given its report"));
            };
            match heard.what {
                What::Said(Say::Report(report)) => reports.push((heard.from, report)),
                What::Ended if !self.stage.actors[heard.from].killed => {
                    let name = &self.stage.actors[heard.from].name;
                    return Err(Failure::failed(format!("{name} has ended by itself")));
                }
                _ => {}
            }
        }
        Ok(reports)
    }
}
