//! The `orders` process: prices each order, announces it, and has a mail sent. It may be killed at any moment: a journal says which
//! orders need no more work, and what was announced and pushed before that waits on disk.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use ripstop::{
    Node,
    discovery::NodeId,
    fabric::{PeerEvent, Publisher},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    orders_csv::{self, Order},
    roles::{CREATED, EMAILS, Mail, OrderCreated, QUOTE, Quote, QuoteAsk, TICK},
    talk::{Ask, Orders, Report, Say, decode, encode, hear, say},
};
use crate::{exit::Failure, input::Lines};

/// Orders worked on at the same time.
const IN_FLIGHT: usize = 64;
/// Asking for a price changes nothing, so a quote that fails is asked again.
const TRIES: u32 = 8;
const QUOTE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the shop waits for its other processes, at the beginning and for the replacement.
const OTHERS: Duration = Duration::from_secs(10);

/// What the workers share.
struct Work {
    node: Node,
    publisher: Publisher<OrderCreated>,
    orders: Vec<Order>,
    next: AtomicUsize,
    priced: AtomicU64,
    /// Orders with which it is done, by place; those of an earlier life before it begins.
    done: HashSet<String>,
    journal: Mutex<File>,
    tally: Mutex<Tally>,
    /// Whether the replacement of the killed instance is there.
    replaced: watch::Receiver<bool>,
}

struct Tally {
    report: Orders,
    /// Calls that were answered, in microseconds.
    calls: Histogram<u64>,
}

pub(super) async fn orders(node: &Node, input: Option<&Path>, dir: &Path) -> Result<(), Failure> {
    let orders = orders_csv::load(input)?;
    let total = orders.len() as u64;
    let publisher = node.publisher::<OrderCreated>(CREATED).await?;
    say(&Say::Ready { node: node.id().to_string() })?;

    // The first event must be kept for somebody.
    let known = async {
        while node.kept().subscriptions().await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Failure>(())
    };
    timeout(OTHERS, known).await.map_err(|_| Failure::failed("the ledger was not found"))??;
    for (root, count) in [("pricing", 2), (EMAILS, 2)] {
        until_there(node, root, |present| present.len() >= count).await?;
    }
    // Asked whether they are there, they are connected: all of them share the first orders.
    node.peers().await;

    let calls = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(Failure::failed)?;
    let mut report = Orders { orders: total, ..Orders::default() };
    let (journal, done) = recall(&dir.join("orders.journal"), &mut report).map_err(Failure::failed)?;
    let (replaced, is_replaced) = watch::channel(false);
    let work = Arc::new(Work {
        node: node.clone(),
        publisher,
        orders,
        next: AtomicUsize::new(0),
        priced: AtomicU64::new(report.priced),
        done,
        journal: Mutex::new(journal),
        tally: Mutex::new(Tally { report, calls }),
        replaced: is_replaced,
    });
    let mut workers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        workers.spawn(worker(work.clone()));
    }

    let mut parent = Lines::stdin();
    let mut peers = node.watch_peers();
    let mut tick = tokio::time::interval(TICK);
    let mut finished = false;
    loop {
        tokio::select! {
            done = workers.join_next(), if !finished => match done {
                Some(done) => done.map_err(Failure::failed)??,
                None => {
                    finished = true;
                    say(&Say::Report(Report::Orders(work.report())))?;
                }
            },
            event = peers.recv() => {
                if let Some(PeerEvent::Left(peer)) = event
                    && let Some(node) = peer.node
                {
                    say(&Say::Left { node: node.to_string() })?;
                }
            }
            ask = hear::<Ask>(&mut parent) => match ask? {
                None => return Ok(()),
                Some(Ask::Report) => say(&Say::Report(Report::Orders(work.report())))?,
                Some(Ask::Replaced { node: id }) => {
                    let id: NodeId = id.parse().map_err(Failure::failed)?;
                    let (node, replaced) = (node.clone(), replaced.clone());
                    tokio::spawn(async move {
                        let there = |present: &[Option<NodeId>]| present.contains(&Some(id));
                        if until_there(&node, "pricing", there).await.is_ok() {
                            // A link to it is up when it has answered; until then calls would go to the others.
                            node.peers().await;
                            replaced.send_replace(true);
                        }
                    });
                }
            },
            _ = tick.tick() => say(&Say::Progress { done: work.priced.load(Relaxed) })?,
        }
    }
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Done {
    order: String,
    currency: String,
    cents: u64,
    /// The node that has priced it.
    by: String,
}

fn count(report: &mut Orders, done: &Done) {
    report.priced += 1;
    *report.by.entry(done.by.clone()).or_default() += 1;
    *report.turnover.entry(done.currency.clone()).or_default() += done.cents;
}

/// The journal, and what an earlier life has noted in it.
fn recall(path: &Path, report: &mut Orders) -> io::Result<(File, HashSet<String>)> {
    let file = File::options().create(true).append(true).open(path)?;
    let mut orders = HashSet::new();
    for line in fs::read_to_string(path)?.lines() {
        let done: Done = decode(line.as_bytes()).map_err(|failure| io::Error::other(failure.to_string()))?;
        count(report, &done);
        orders.insert(done.order);
    }
    Ok((file, orders))
}

/// Waits until the instances behind a root are as they should be.
async fn until_there(
    node: &Node,
    root: &str,
    enough: impl Fn(&[Option<NodeId>]) -> bool,
) -> Result<(), Failure> {
    let mut changed = node.directory().changed();
    let wait = async {
        loop {
            let present: Vec<_> = node.directory().by_root(root).iter().map(|i| i.advert.node).collect();
            if enough(&present) || changed.changed().await.is_err() {
                return;
            }
        }
    };
    let waited = timeout(OTHERS, wait).await;
    waited.map_err(|_| Failure::failed(format!("{root} was not found within {} s", OTHERS.as_secs())))
}

/// Takes one order after the other until none is left.
async fn worker(work: Arc<Work>) -> Result<(), Failure> {
    let total = work.orders.len();
    let mut replaced = work.replaced.clone();
    loop {
        let index = work.next.fetch_add(1, Relaxed);
        let Some(order) = work.orders.get(index) else { return Ok(()) };
        if index == total / 2 {
            say(&Say::Half)?;
        }
        if work.done.contains(&order.id) {
            continue;
        }
        // On a fast machine the shop would be done before the replacement is up, and it is to have its share.
        if index >= total * 4 / 5 {
            // Without a replacement the shop goes on all the same.
            let _ = timeout(OTHERS, replaced.wait_for(|there| *there)).await;
        }
        if let Err(reason) = work.handle(order).await {
            let report = &mut work.tally().report;
            report.failures += 1;
            if report.reasons.len() < 5 {
                report.reasons.push(format!("{}: {reason}", order.id));
            }
        }
    }
}

impl Work {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One order from beginning to end.
    async fn handle(&self, order: &Order) -> Result<(), String> {
        let (quote, by) = self.quote(order).await?;
        let created = OrderCreated {
            order: order.id.clone(),
            customer: order.customer.clone(),
            currency: order.currency.clone(),
            cents: quote.cents,
        };
        // Once this returns, it is on disk for the ledger, whatever becomes of either process.
        self.publisher.keep(&created).await.map_err(|error| format!("its event: {error}"))?;
        let mail = Mail {
            order: order.id.clone(),
            to: order.email.clone(),
            subject: format!("Your order {}", order.id),
            text: format!(
                "Dear {},\n\nwe ship {} items to {} for {}.{:02} {}.\n",
                order.customer,
                order.items.iter().map(|item| u64::from(item.quantity)).sum::<u64>(),
                order.address,
                quote.cents / 100,
                quote.cents % 100,
                order.currency
            ),
        };
        self.node.push(EMAILS, &mail).durable().await.map_err(|error| format!("its mail: {error}"))?;
        self.note(order, &quote, &by).map_err(|error| format!("its line in the journal: {error}"))
    }

    /// Done with this order. A process that is killed before has it all again: whoever is told twice knows it by its name.
    fn note(&self, order: &Order, quote: &Quote, by: &str) -> Result<(), Failure> {
        let done = Done {
            order: order.id.clone(),
            currency: order.currency.clone(),
            cents: quote.cents,
            by: by.into(),
        };
        let mut line = encode(&done)?;
        line.push('\n');
        // One write: no line is cut in two.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?;
        count(&mut self.tally().report, &done);
        self.priced.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The price, asked again if a quote fails.
    async fn quote(&self, order: &Order) -> Result<(Quote, String), String> {
        let ask = QuoteAsk { currency: order.currency.clone(), items: order.items.clone() };
        let mut tries = 1;
        loop {
            let start = Instant::now();
            let call = self.node.call::<QuoteAsk, Quote>(QUOTE, &ask).timeout(QUOTE_TIMEOUT).with_instance();
            let error = match call.await {
                Ok((quote, instance)) => {
                    let mut tally = self.tally();
                    // The histogram takes a minute; no call lasts longer than its timeout.
                    let _ = tally.calls.record(start.elapsed().as_micros() as u64);
                    return Ok((quote, instance.map_or("unknown".into(), |node| node.to_string())));
                }
                Err(error) => error,
            };
            if tries == TRIES {
                return Err(format!("no quote after {TRIES} tries: {error}"));
            }
            self.tally().report.asked_again += 1;
            // 10 ms to 640 ms.
            tokio::time::sleep(Duration::from_millis(5 << tries)).await;
            tries += 1;
        }
    }

    fn report(&self) -> Orders {
        let tally = self.tally();
        let percentile = |p| tally.calls.value_at_percentile(p);
        Orders { p50_us: percentile(50.0), p99_us: percentile(99.0), ..tally.report.clone() }
    }
}
