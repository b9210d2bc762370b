//! The systems, each as its own users would write it.

mod floor;
#[cfg(feature = "libzmq")]
mod libzmq;
#[cfg(feature = "omq")]
mod omq;
mod ripstop;
mod typed;
#[cfg(feature = "zeromq")]
mod zeromq;

use crate::Result;
use crate::work::{FAN, Kind, Row, Work};

/// One system: what its two processes do.
pub struct System {
    pub name: &'static str,
    kinds: &'static [Kind],
    /// It does them with bodies of this many bytes only.
    size: Option<usize>,
    /// About how many small messages it moves one way in a second, so that every run takes about as long.
    one_way: f64,
    /// Says where it is, and receives or answers.
    pub stay: fn(&Work) -> Result<()>,
    /// Goes there, and sends or asks.
    pub come: fn(&Work, &str) -> Result<()>,
}

impl System {
    pub fn does(&self, row: &Row) -> bool {
        self.kinds.contains(&row.kind) && self.size.is_none_or(|size| size == row.size)
    }

    pub fn guess(&self, kind: Kind) -> f64 {
        match kind {
            Kind::OneWay | Kind::Sealed => self.one_way,
            Kind::Ask => 20e3,
            Kind::Many => 300e3,
            Kind::FanOut => self.one_way / FAN as f64,
        }
    }
}

const PLAIN: &[Kind] = &[Kind::OneWay, Kind::Ask, Kind::Many];
const WITH_EVENTS: &[Kind] = &[Kind::OneWay, Kind::Ask, Kind::Many, Kind::FanOut];

/// What is built in.
pub fn all() -> Vec<System> {
    vec![
        ripstop::SYSTEM,
        typed::PUSH,
        typed::PUBLISH,
        typed::CALL,
        floor::SYSTEM,
        #[cfg(feature = "libzmq")]
        libzmq::SYSTEM,
        #[cfg(feature = "omq")]
        omq::SYSTEM,
        #[cfg(feature = "omq")]
        omq::EXCLUSIVE,
        #[cfg(feature = "zeromq")]
        zeromq::SYSTEM,
    ]
}

pub fn named(name: &str) -> Result<System> {
    all()
        .into_iter()
        .find(|system| system.name == name)
        .ok_or_else(|| format!("no such system: {name}").into())
}

/// A runtime for throughput, or one thread where waking another would be most of the time.
fn runtime(work: &Work) -> Result<tokio::runtime::Runtime> {
    let mut builder = match work.kind {
        Kind::OneWay | Kind::Sealed | Kind::FanOut => tokio::runtime::Builder::new_multi_thread(),
        Kind::Ask | Kind::Many => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}

/// Runs one side on a thread of its runtime, as a server's code does.
fn block_on<F>(work: &Work, side: impl FnOnce(Work) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let side = side(*work);
    runtime(work)?.block_on(async move { tokio::spawn(side).await? })
}

/// The same for the side that goes somewhere.
fn block_on_with<F>(work: &Work, endpoint: &str, side: impl FnOnce(Work, String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let side = side(*work, endpoint.to_owned());
    runtime(work)?.block_on(async move { tokio::spawn(side).await? })
}
