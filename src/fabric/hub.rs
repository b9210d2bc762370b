//! One port per node: the listener learns what a peer is from its READY and attaches it to a lane.

use std::sync::{Arc, Weak};

use crate::{
    fabric::{
        calls::server::CallsCore,
        events::{publisher::TopicsCore, subscription::FeedCore},
        guard::Who,
        link::Lane,
        shared::Shared,
        wire::property,
        work::pull::PullsCore,
    },
    socket::{
        ConnectError,
        core::{Admission, Admit, Core, Disconnect, Flow, Origin, Refusal},
        pipe::Pipe,
    },
    transport::tls::Proof,
    zmtp::{Peer, Received, SocketType},
};

/// The [`Core`] behind the node's listeners.
pub(crate) struct Hub {
    pub(crate) shared: Weak<Shared>,
    pub(crate) calls: Arc<CallsCore>,
    pub(crate) topics: Arc<TopicsCore>,
    pub(crate) feeds: Arc<FeedCore>,
    pub(crate) credited: Arc<PullsCore>,
    pub(crate) foreign: Arc<PullsCore>,
}

/// Where a peer belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Calls,
    Events,
    /// A publisher that dialled in: it feeds our own subscriptions.
    Feed,
    Work,
    ForeignWork,
}

/// The table of design section 4: by lane for our own nodes, by socket type for everyone else.
fn place(lane: Option<&[u8]>, theirs: SocketType) -> Result<(Place, SocketType), String> {
    use SocketType::{Dealer, Pub, Push, Req, Sub, XPub, XSub};
    match (lane, theirs) {
        (None, Dealer | Req) | (Some(b"calls"), Dealer) => Ok((Place::Calls, SocketType::Router)),
        (None, Sub | XSub) | (Some(b"events"), Sub) => Ok((Place::Events, SocketType::XPub)),
        (None, Push) => Ok((Place::ForeignWork, SocketType::Pull)),
        (None, Pub | XPub) => Ok((Place::Feed, SocketType::Sub)),
        (Some(b"work"), Dealer) => Ok((Place::Work, SocketType::Router)),
        (None, other) => {
            Err(format!("a node takes DEALER, REQ, SUB, XSUB, PUSH, PUB and XPUB, not {}", other.as_str()))
        }
        (Some(lane), other) => Err(format!("{} on the lane {}", other.as_str(), lane.escape_ascii())),
    }
}

impl Core for Hub {
    fn admit(&self, peer: &Peer, from: &Origin, proof: &Proof) -> Admit {
        match self.admission(peer, from, proof) {
            Ok((shared, who, admission)) => {
                shared.guard.welcome(who, peer, from, shared.options.link.limits.handshake, admission)
            }
            Err(refusal) => Admit::Now(Err(refusal)),
        }
    }

    fn joined(&self, _: &Arc<Pipe>) {}

    fn deliver(&self, _: &Arc<Pipe>, _: &mut Received) -> Flow {
        Flow::Close("not attached to a lane".into())
    }

    fn left(&self, _: &Arc<Pipe>, _: &Disconnect) {}

    fn failed(&self, origin: &Origin, error: &ConnectError, _: Option<std::time::Duration>) {
        // The endpoint that these name is our own.
        let reason: &dyn std::fmt::Display = match error {
            ConnectError::Handshake { reason, .. } | ConnectError::Refused { reason, .. } => reason,
            error => error,
        };
        let remote = origin.remote();
        let host = remote.rsplit_once(':').map_or(remote, |(host, _)| host);
        let secured = self.shared.upgrade().filter(|shared| shared.guard.keys().is_some());
        // Where there are keys, whoever is not let in is of interest: of each host, so that one that comes again and again
        // does not hide another.
        if secured.is_some_and(|shared| shared.guard.strangers.is_news(&format!("{host}: {reason}"))) {
            tracing::warn!(remote, %reason, "not let in");
        } else {
            tracing::debug!(remote, %reason, "a handshake failed");
        }
    }
}

impl Hub {
    fn admission(
        &self,
        peer: &Peer,
        from: &Origin,
        proof: &Proof,
    ) -> Result<(Arc<Shared>, Option<Who>, Admission), Refusal> {
        let refuse = |label: &'static str, reason: String, last: bool| {
            tracing::debug!(remote = from.remote(), %reason, "refused");
            metrics::counter!("ripstop_connections_refused_total", "reason" => label).increment(1);
            Refusal { reason, last }
        };
        let shared = self.shared.upgrade().ok_or_else(|| refuse("gone", "the node is gone".into(), false))?;
        if shared.is_draining() {
            return Err(refuse("draining", "the node is shutting down".into(), false));
        }
        if let Some(fabric) = peer.property(property::FABRIC)
            && fabric != shared.fabric.as_bytes()
        {
            // Not final: the address may belong to the right fabric's node in a moment.
            return Err(refuse("fabric", format!("this is fabric {}", shared.fabric), false));
        }
        let who = shared.guard.identify(peer, proof).map_err(|reason| refuse("identity", reason, true))?;
        let lane = peer.property(property::LANE).map(|lane| &lane[..]);
        let (place, ours) =
            place(lane, peer.socket_type).map_err(|reason| refuse("socket-type", reason, true))?;
        let (core, lane): (Arc<dyn Core>, _) = match place {
            Place::Calls => (self.calls.clone(), Lane::Calls),
            Place::Events => (self.topics.clone(), Lane::Events),
            Place::Feed => (self.feeds.clone(), Lane::Events),
            Place::Work => (self.credited.clone(), Lane::Work),
            Place::ForeignWork => (self.foreign.clone(), Lane::Work),
        };
        let admission = Admission { local: shared.local(ours, Some(lane)), core, about: None };
        Ok((shared, who, admission))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_its_place() {
        use SocketType::*;
        for (theirs, ours) in [
            (Dealer, Router),
            (Req, Router),
            (Sub, XPub),
            (XSub, XPub),
            (Push, Pull),
            (Pub, Sub),
            (XPub, Sub),
        ] {
            let (_, answered) = place(None, theirs).unwrap();
            assert_eq!(answered, ours, "{theirs:?}");
            assert!(theirs.pairs_with(ours));
        }
        for theirs in [Rep, Router, Pull, Pair] {
            assert!(place(None, theirs).is_err());
        }
        assert!(place(Some(b"work"), Push).is_err());
        assert!(place(Some(b"else"), Dealer).is_err());
    }
}
