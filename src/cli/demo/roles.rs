//! The shop's processes: what each one does is what a service of yours would do. (`orders` is in `shop.rs`.)

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ripstop::{
    Node,
    fabric::{Context, HandlerError},
};
use serde::{Deserialize, Serialize};

use super::{
    orders_csv::Item,
    sent,
    talk::{Ask, Ledger, Report, Say, hear, say},
};
use crate::{exit::Failure, input::Lines};

pub(super) const QUOTE: &str = "pricing.quote";
pub(super) const CREATED: &str = "orders.created";
pub(super) const EMAILS: &str = "emails";

/// How often a process says how far it is.
pub(super) const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QuoteAsk {
    pub(super) currency: String,
    pub(super) items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Quote {
    pub(super) cents: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OrderCreated {
    pub(super) order: String,
    pub(super) customer: String,
    pub(super) currency: String,
    pub(super) cents: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mail {
    pub(super) order: String,
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) text: String,
}

/// Answers quotes.
pub(super) async fn pricing(node: &Node) -> Result<(), Failure> {
    let answered = Arc::new(AtomicU64::new(0));
    let count = answered.clone();
    let _served = node
        .serve(QUOTE, move |ask: QuoteAsk, _: Context| {
            let count = count.clone();
            async move {
                let quote = Quote { cents: price(&ask)? };
                count.fetch_add(1, Relaxed);
                Ok(quote)
            }
        })
        .idempotent()
        .await?;
    until_the_end(node, || answered.load(Relaxed), || Report::Pricing { answered: answered.load(Relaxed) })
        .await
}

/// List price by SKU, less 5 % from ten pieces on, in the order's currency.
fn price(ask: &QuoteAsk) -> Result<u64, HandlerError> {
    let per_hundred_euro = match ask.currency.as_str() {
        "EUR" => 100,
        "GBP" => 86,
        "USD" => 108,
        "CHF" => 95,
        "DKK" => 746,
        "SEK" => 1130,
        "PLN" => 428,
        "JPY" => 16_300,
        _ => 100,
    };
    let mut cents = 0u64;
    for item in &ask.items {
        let list = 450 + item.sku.bytes().fold(7u64, |hash, byte| (hash * 31 + u64::from(byte)) % 9973);
        let discount = if item.quantity >= 10 { 95 } else { 100 };
        cents += list * u64::from(item.quantity) * discount / 100;
    }
    match cents * per_hundred_euro / 100 {
        0 => Err(HandlerError::new("an order without items has no price")),
        cents => Ok(cents),
    }
}

/// Takes mail jobs, and sends each. One that dies between sending and saying so has the mail brought again, and the mail server
/// knows it then.
pub(super) async fn mailer(node: &Node, name: &str, dir: &Path) -> Result<(), Failure> {
    // What it has sent in an earlier life.
    let before = sent::count(dir).map_err(Failure::failed)?.remove(name).unwrap_or_default();
    let (sent, again) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicU64::new(0)));
    let (count, repeated) = (sent.clone(), again.clone());
    let (by, dir): (Arc<str>, Arc<Path>) = (name.into(), dir.into());
    let _worker = node
        .work(EMAILS, move |mail: Mail, _: Context| {
            let (count, repeated, by, dir) = (count.clone(), repeated.clone(), by.clone(), dir.clone());
            async move {
                if mail.to.is_empty() || mail.text.is_empty() {
                    return Err(HandlerError::new("a mail needs an address and a text").permanent());
                }
                let new = sent::send(&dir, &mail.order, &by)?;
                if new { &count } else { &repeated }.fetch_add(1, Relaxed);
                Ok(())
            }
        })
        .concurrency(8)
        .await?;
    until_the_end(node, || sent.load(Relaxed), || Report::Mailer { again: again.load(Relaxed) }).await
}

/// Books every order that it hears of.
pub(super) async fn ledger(node: &Node) -> Result<(), Failure> {
    let mut events = node.subscribe::<OrderCreated>("orders.*").durable("ledger").await?;
    let book = Arc::new(Mutex::new((HashSet::new(), Ledger::default())));
    let open = || book.lock().unwrap_or_else(PoisonError::into_inner);
    let booking = async {
        while let Some(event) = events.recv().await {
            let event = event.map_err(Failure::failed)?;
            let OrderCreated { order, currency, cents, .. } = &event.body;
            let mut book = open();
            let (orders, ledger) = &mut *book;
            if orders.insert(order.clone()) {
                ledger.seen += 1;
                *ledger.turnover.entry(currency.clone()).or_default() += cents;
            } else {
                // Its sender died before it had noted that it was sent.
                ledger.repeated += 1;
            }
            event.ack();
        }
        Ok(())
    };
    tokio::select! {
        done = until_the_end(node, || open().1.seen, || Report::Ledger(open().1.clone())) => done,
        done = booking => done,
    }
}

/// Says ready, then how far it is, then the report when asked; ends when the parent does.
pub(super) async fn until_the_end(
    node: &Node,
    done: impl Fn() -> u64,
    report: impl Fn() -> Report,
) -> Result<(), Failure> {
    let mut parent = Lines::stdin();
    say(&Say::Ready { node: node.id().to_string() })?;
    let mut tick = tokio::time::interval(TICK);
    let mut said = 0;
    loop {
        tokio::select! {
            ask = hear::<Ask>(&mut parent) => match ask? {
                None => return Ok(()),
                Some(Ask::Report) => say(&Say::Report(report()))?,
                Some(Ask::Replaced { .. }) => {}
            },
            _ = tick.tick() => {
                let done = done();
                if done != said {
                    said = done;
                    say(&Say::Progress { done })?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_scale() {
        let ask = |quantity, currency: &str| QuoteAsk {
            currency: currency.into(),
            items: vec![Item { sku: "TARP-M".into(), quantity }],
        };
        let one = price(&ask(1, "EUR")).unwrap();
        assert_eq!(price(&ask(2, "EUR")).unwrap(), 2 * one);
        assert_eq!(price(&ask(10, "EUR")).unwrap(), one * 10 * 95 / 100);
        assert!(price(&ask(1, "JPY")).unwrap() > one);
        assert!(price(&QuoteAsk { currency: "EUR".into(), items: vec![] }).is_err());
    }
}
