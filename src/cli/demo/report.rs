//! The demo's report, from the processes' own counts.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    Show,
    talk::{Ledger, Orders, Report},
};
use crate::{args::Role, exit::Failure, output::Output};

pub(super) struct Summary {
    fabric: String,
    processes: usize,
    secure: bool,
    total: u64,
    orders: Orders,
    ledger: Ledger,
    /// Name, node, quotes used by orders, quotes given by its own count; `None` for the killed one.
    pricing: Vec<(String, String, u64, Option<u64>)>,
    mailers: BTreeMap<String, u64>,
    /// Mails that were brought again, and recognised.
    again: u64,
    noticed: Option<Duration>,
    took: Duration,
}

impl Summary {
    pub(super) fn new(show: &Show, reports: Vec<(usize, Report)>, mailers: BTreeMap<String, u64>) -> Self {
        let mut summary = Self {
            fabric: show.stage.fabric.clone(),
            processes: show.stage.actors.len(),
            secure: show.stage.secure,
            total: show.total,
            orders: Orders::default(),
            ledger: Ledger::default(),
            pricing: Vec::new(),
            mailers,
            again: 0,
            noticed: show.noticed,
            took: show.took,
        };
        let mut own = vec![None; show.stage.actors.len()];
        for (from, report) in reports {
            match report {
                Report::Orders(orders) => summary.orders = orders,
                Report::Ledger(ledger) => summary.ledger = ledger,
                Report::Mailer { again } => summary.again += again,
                Report::Pricing { answered } => own[from] = Some(answered),
            }
        }
        for (actor, own) in show.stage.actors.iter().zip(own).filter(|(actor, _)| actor.role == Role::Pricing)
        {
            let node = actor.node.clone().unwrap_or_default();
            let used = summary.orders.by.get(&node).copied().unwrap_or_default();
            summary.pricing.push((actor.name.clone(), node, used, own));
        }
        summary
    }

    fn mails(&self) -> u64 {
        self.mailers.values().sum()
    }

    /// What is missing; `None` when every order was priced, its event seen and its mail sent.
    pub(super) fn shortfall(&self) -> Option<String> {
        let mut missing = Vec::new();
        for (what, count) in
            [("priced", self.orders.priced), ("events seen", self.ledger.seen), ("mails sent", self.mails())]
        {
            if count != self.total {
                missing.push(format!("{what}: {count} of {}", self.total));
            }
        }
        if self.ledger.turnover != self.orders.turnover {
            missing.push("the ledger's turnover is not that of orders".into());
        }
        if self.noticed.is_none() {
            missing.push("the death of pricing-1 was not noticed".into());
        }
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    pub(super) fn print(&self, out: &mut Output) -> Result<(), Failure> {
        if out.json {
            return out.value(&self.json());
        }
        let of = |count: u64| format!("{count} of {}", self.total);
        let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1e3);
        let mut rows = vec![("orders in", of(self.orders.orders)), ("priced", of(self.orders.priced))];
        for (name, _, used, own) in &self.pricing {
            let remark = match (own, name.as_str()) {
                (None, _) => ", killed half-way",
                (Some(_), "pricing-3") => ", started then",
                _ => "",
            };
            rows.push(("", format!("{name:<10}{used:>6}{remark}")));
        }
        rows.push(("events seen", of(self.ledger.seen)));
        rows.push(("mails sent", of(self.mails())));
        for (name, sent) in &self.mailers {
            let remark = if name == "mailer-1" { ", killed half-way, and started again" } else { "" };
            rows.push(("", format!("{name:<10}{sent:>6}{remark}")));
        }
        rows.push((
            "told again after a death",
            format!("{} events, {} mails: each known", self.ledger.repeated, self.again),
        ));
        rows.push(("failures", self.orders.failures.to_string()));
        rows.push(("quotes asked again", self.orders.asked_again.to_string()));
        rows.push(("a call, p50 / p99", format!("{} / {}", ms(self.orders.p50_us), ms(self.orders.p99_us))));
        rows.push((
            "dead instance noticed",
            self.noticed.map_or("no".into(), |after| format!("after {} ms", after.as_millis())),
        ));
        rows.push(("took", format!("{:.2} s", self.took.as_secs_f64())));
        let secure = if self.secure { ", encrypted" } else { "" };
        out.line(format!("A shop of {} processes in fabric {}{secure}:", self.processes, self.fabric))?;
        out.table(&[], rows.into_iter().map(|(label, value)| vec![label.to_owned(), value]).collect())?;
        for reason in &self.orders.reasons {
            out.line(format!("failed: {reason}"))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let pricing = self.pricing.iter().map(|(name, node, used, own)| {
            json!({"name": name, "node": node, "priced": used, "answered": own, "killed": own.is_none()})
        });
        let mailers = self.mailers.iter().map(|(name, sent)| json!({"name": name, "sent": sent}));
        json!({
            "ok": self.shortfall().is_none(),
            "missing": self.shortfall(),
            "fabric": self.fabric,
            "secure": self.secure,
            "processes": self.processes,
            "orders": self.orders.orders,
            "priced": self.orders.priced,
            "priced_by": pricing.collect::<Vec<_>>(),
            "events_seen": self.ledger.seen,
            "events_repeated": self.ledger.repeated,
            "mails_sent": self.mails(),
            "mails_repeated": self.again,
            "mails_sent_by": mailers.collect::<Vec<_>>(),
            "failures": self.orders.failures,
            "failure_reasons": self.orders.reasons,
            "asked_again": self.orders.asked_again,
            "call_p50_ms": self.orders.p50_us as f64 / 1e3,
            "call_p99_ms": self.orders.p99_us as f64 / 1e3,
            "noticed_ms": self.noticed.map(|after| after.as_secs_f64() * 1e3),
            "seconds": self.took.as_secs_f64(),
            "turnover_cents": self.ledger.turnover,
        })
    }
}
