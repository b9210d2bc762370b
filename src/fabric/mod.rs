//! The fabric: named services that call, publish to and push to each other directly.
//!
//! Everything begins with a [`Node`]. What it offers: [`Node::serve`] and [`Node::call`], [`Node::publisher`] and
//! [`Node::subscribe`], [`Node::push`], [`Node::pull`] and [`Node::work`]. Inside:
//!
//! ```text
//! node      the handle         builder  how it starts         identity  who it is
//! shared    what all handles share, and the reconciler that decides whom to dial
//! hub       one port: attaches whoever dials in to a lane
//! link      one peer's lanes, each kept connected by a supervisor
//! calls     request-reply        events   pub-sub        work   push-pull with credit
//! balance   power of two choices drain    leaving        peers  who is there
//! resilience  budget of retries, and what else keeps one service's trouble its own
//! observe   what is counted, and what $node subjects say
//! guard     who may               reload   keys and rules that change
//! effect    what is done once     trace    which request it belongs to
//! ```

/// `Debug` of a handle or a builder: what tells it from others, not its insides.
macro_rules! show {
    ([$($generics:tt)*] $type:ty, $name:literal, $this:ident, { $($field:ident: $value:expr),* $(,)? }) => {
        impl<$($generics)*> std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let $this = self;
                f.debug_struct($name)$(.field(stringify!($field), &$value))*.finish_non_exhaustive()
            }
        }
    };
}

mod balance;
mod builder;
mod calls;
mod context;
mod drain;
mod effect;
mod error;
mod events;
mod fate;
mod guard;
mod hub;
mod identity;
mod inbox;
mod link;
mod node;
mod observe;
mod peers;
#[cfg(feature = "tls")]
mod reload;
mod resilience;
mod shared;
mod trace;
mod wire;
mod work;

pub use builder::NodeBuilder;
#[cfg(feature = "tower")]
pub use calls::service::{CallService, Client, ClientRequest};
pub use calls::{
    client::Call,
    fallback::OrElse,
    server::{Serve, Served},
    stream::{CallStream, Replies, ReplySink},
};
pub use context::Context;
pub use effect::{EffectId, Ledger};
pub use error::{
    CallError, HandlerError, PublishError, PushError, ReceiveError, ServeError, StartError, SubscribeError,
};
#[cfg(feature = "durable")]
pub use events::durable::Keep;
pub use events::{
    durable::SubscribeDurably,
    publisher::{Publish, Publisher, Ready, SlowPolicy},
    subscription::{Event, Subscribe, Subscription},
};
pub use fate::{DropReason, Fate};
pub use node::Node;
pub use observe::inspect::Inspect;
pub use peers::{PeerEvent, PeerInfo, PeerWatch};
#[cfg(feature = "durable")]
pub use work::outbox::{
    kept::{Kept, KeptItem, KeptQueue, KeptSubscription},
    letters::{DeadLetter, DeadLetters, Death},
    push::{Durable, KeptEvent, Receipt},
};
pub use work::{
    delivery::Delivery,
    pull::{Pull, PullBuilder},
    push::{Push, Pushing},
    worker::{Work, Worker},
};
