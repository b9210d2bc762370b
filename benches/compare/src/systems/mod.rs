//! The systems, each as its own users would write it.

mod floor;
#[cfg(feature = "libzmq")]
mod libzmq;
#[cfg(feature = "omq")]
mod omq;
mod ripstop;
#[cfg(feature = "zeromq")]
mod zeromq;

use crate::Result;
use crate::work::{Kind, Work};

/// One system: what its two processes do.
pub struct System {
    pub name: &'static str,
    kinds: &'static [Kind],
    /// About how many small messages it moves one way in a second, so that every run takes about as long.
    one_way: f64,
    /// Says where it is, and receives or answers.
    pub stay: fn(&Work) -> Result<()>,
    /// Goes there, and sends or asks.
    pub come: fn(&Work, &str) -> Result<()>,
}

impl System {
    pub fn does(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    pub fn guess(&self, kind: Kind) -> f64 {
        match kind {
            Kind::OneWay | Kind::Sealed => self.one_way,
            Kind::Ask => 20e3,
            Kind::Many => 300e3,
        }
    }
}

const PLAIN: &[Kind] = &[Kind::OneWay, Kind::Ask, Kind::Many];

/// What is built in.
pub fn all() -> Vec<System> {
    vec![
        ripstop::SYSTEM,
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
        Kind::OneWay | Kind::Sealed => tokio::runtime::Builder::new_multi_thread(),
        Kind::Ask | Kind::Many => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}
