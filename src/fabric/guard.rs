//! Who may: what a peer has proven, held against the permission table of this node.
//!
//! Without keys every peer may everything, which is why such a node listens on loopback only unless told otherwise.
//! With keys, nothing of a peer's is taken that it has not the right to, whatever it says of itself: the node that
//! receives decides.

#![cfg_attr(not(feature = "tls"), allow(dead_code, reason = "nobody has keys then"))]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    fabric::wire::property,
    security::{Action, AuthRequest, Authoriser, Identity, Permissions, Verdict},
    socket::{
        core::{Admission, Admit, Origin, Refusal},
        pipe::Pipe,
    },
    sync::{lock, read, write},
    transport::tls::Proof,
    zmtp::Peer,
};

#[cfg(feature = "tls")]
pub(crate) use crate::security::KeyStore;

/// Without the feature `tls` nobody has keys.
#[cfg(not(feature = "tls"))]
#[derive(Debug)]
pub(crate) enum KeyStore {}

/// A refusal is logged once in this time for each peer, action and subject.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Refusals kept in mind for that; a flood of different ones is logged no more than this often in that time.
const REMEMBERED: usize = 1024;

/// Who is at the other end of a connection, proven. It is kept with the connection: [`Pipe::about`].
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) identity: Identity,
    /// What proved it, to be looked at again when keys change.
    pub(crate) proof: Proof,
    /// The keys that it was proven to.
    generation: u64,
}

impl Who {
    /// The identity of the peer behind this connection; `None` where nothing had to be proven.
    pub(crate) fn of(pipe: &Pipe) -> Option<Arc<Self>> {
        pipe.about()
    }
}

/// This node's doorkeeper.
pub(crate) struct Guard {
    keys: Option<Arc<KeyStore>>,
    table: RwLock<Arc<Permissions>>,
    /// Rises with each table.
    generation: AtomicU64,
    authoriser: Option<Arc<dyn Authoriser>>,
    /// Of those who have proven who they are, and of all others: strangers don't use up what is said of members.
    members: News,
    pub(crate) strangers: News,
    /// Rises when connections stand on keys that are not the newest: links dial again beside those they have.
    renewals: watch::Sender<u64>,
}

impl Guard {
    pub(crate) fn new(
        keys: Option<Arc<KeyStore>>,
        table: Permissions,
        authoriser: Option<Arc<dyn Authoriser>>,
    ) -> Self {
        Self {
            keys,
            table: RwLock::new(Arc::new(table)),
            generation: AtomicU64::new(0),
            authoriser,
            members: News::default(),
            strangers: News::default(),
            renewals: watch::Sender::default(),
        }
    }

    pub(crate) fn keys(&self) -> Option<&Arc<KeyStore>> {
        self.keys.as_ref()
    }

    pub(crate) fn table(&self) -> Arc<Permissions> {
        read(&self.table).clone()
    }

    /// For those who keep in mind what was allowed; `None`: everything always is.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.keys.as_ref().map(|_| self.generation.load(Ordering::Acquire))
    }

    /// A new table is in force from now on. Whoever keeps what the old one allowed has to look again.
    pub(crate) fn replace(&self, table: Permissions) {
        *write(&self.table) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Has every link dial again beside the connection it has, and change over.
    pub(crate) fn renew(&self) {
        self.renewals.send_modify(|renewals| *renewals += 1);
    }

    /// Who this is, by what was proven; `None` on a node without keys. What the handshake says of its service has to
    /// agree: another name there is a mistake at best.
    pub(crate) fn identify(&self, peer: &Peer, proof: &Proof) -> Result<Option<Who>, String> {
        let Some(keys) = &self.keys else { return Ok(None) };
        // Read before the keys: if they change in between, it is looked at again.
        let generation = with_keys::generation(keys);
        let identity = with_keys::prove(keys, proof)?;
        let said = peer.property(property::SERVICE);
        let said = said.and_then(|said| std::str::from_utf8(said).ok());
        if let Some(said) = said
            && said != identity.name()
        {
            return Err(format!("it says that it is service {said}, and has proven to be {identity}"));
        }
        Ok(Some(Who { identity, proof: proof.clone(), generation }))
    }

    /// Whether a connection that has just been put into use is still one that would be let in: keys may have changed
    /// while it shook hands, and [`Guard::recheck`] did not see it.
    pub(crate) fn still(&self, pipe: &Pipe) -> Result<(), String> {
        match (&self.keys, Who::of(pipe)) {
            (Some(keys), Some(who)) if who.generation != with_keys::generation(keys) => {
                self.recheck(&who).map_err(|refusal| refusal.to_string())
            }
            _ => Ok(()),
        }
    }

    /// The answer to a peer that was found to be `who`: at once, or when the program's own authoriser has said, which is
    /// asked from a task of its own.
    pub(crate) fn welcome(
        &self,
        who: Option<Who>,
        peer: &Peer,
        from: &Origin,
        within: Duration,
        mut admission: Admission,
    ) -> Admit {
        let Some(who) = who else { return Admit::Now(Ok(admission)) };
        let who = Arc::new(who);
        admission.about = Some(who.clone());
        let Some(authoriser) = self.authoriser.clone() else { return Admit::Now(Ok(admission)) };
        let mut request = AuthRequest::new(who.identity.clone(), from.remote());
        request.metadata = peer.metadata.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect();
        // Ends its task when nobody waits for the verdict any more.
        let mut task = JoinSet::new();
        task.spawn(async move { authoriser.authorise(request).await });
        Admit::Later(Box::pin(async move {
            let not_now = |reason: &str| Refusal { reason: reason.into(), last: false };
            match tokio::time::timeout(within, task.join_next()).await {
                Ok(Some(Ok(Verdict::Allow))) => Ok(admission),
                Ok(Some(Ok(Verdict::Refuse(reason)))) => Err(Refusal { reason, last: true }),
                Ok(Some(Ok(Verdict::TooLate))) => Err(not_now("not now")),
                Ok(_) => Err(not_now("the authoriser panicked")),
                Err(_) => Err(not_now("the authoriser took too long")),
            }
        }))
    }

    /// Whether the peer of this connection may do this. If not: why, counted, and logged now and then.
    pub(crate) fn may(&self, pipe: &Pipe, action: Action, subject: &str) -> Result<(), String> {
        if self.keys.is_none() {
            return Ok(());
        }
        match Who::of(pipe) {
            Some(who) if self.table().allows(&who.identity, action, subject) => Ok(()),
            Some(who) => Err(self.refused(&who.identity.to_string(), action, subject)),
            // Nobody is let in without a proof.
            None => Err(self.refused("somebody unknown", action, subject)),
        }
    }

    /// Whether a service of this fabric may do this at all, before any of its instances is dialled.
    pub(crate) fn service_may(&self, fabric: &str, service: &str, action: Action, subject: &str) -> bool {
        if self.keys.is_none() || service.is_empty() {
            return true;
        }
        Identity::service(fabric, service).is_ok_and(|who| self.table().allows(&who, action, subject))
    }

    fn refused(&self, who: &str, action: Action, subject: &str) -> String {
        metrics::counter!("ripstop_refused_total", "action" => action.as_str()).increment(1);
        let reason = format!("{who} may not {action} {subject}");
        if self.members.is_news(&reason) {
            tracing::warn!(who, %action, subject, "refused: [[allow]] does not let it");
        }
        reason
    }
}

/// What was said lately, so that what a peer can make happen as often as it likes does not fill the log.
#[derive(Default)]
pub(crate) struct News(Mutex<HashMap<String, Instant>>);

impl News {
    /// Whether this was not said within the last minute.
    pub(crate) fn is_news(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut logged = lock(&self.0);
        if logged.get(text).is_some_and(|last| now.duration_since(*last) < LOG_EVERY) {
            return false;
        }
        if logged.len() >= REMEMBERED {
            logged.retain(|_, last| now.duration_since(*last) < LOG_EVERY);
        }
        let room = logged.len() < REMEMBERED;
        if room {
            logged.insert(text.to_owned(), now);
        }
        room
    }
}

#[cfg(feature = "tls")]
mod with_keys {
    use std::{sync::Arc, time::SystemTime};

    use rustls::pki_types::CertificateDer;

    use super::{Guard, KeyStore, Who};
    use crate::{
        security::{Identity, Keys, Refusal, not_after},
        socket::mechanism::CurveKeys,
        transport::tls::{Acceptor, Connector, Proof},
    };

    impl Guard {
        /// For listeners; `None` without keys.
        pub(crate) fn acceptor(&self) -> Option<Acceptor> {
            let keys = self.keys.clone()?;
            Some(Acceptor(Arc::new(move || keys.current().server_config())))
        }

        /// For those who speak CURVE; `None` without keys. Whether there is a key for them is asked at each connection.
        #[cfg(feature = "curve")]
        pub(crate) fn curve_keys(&self) -> Option<CurveKeys> {
            let keys = self.keys.clone()?;
            Some(CurveKeys(Arc::new(move || keys.current().curve_keys().cloned())))
        }

        #[cfg(not(feature = "curve"))]
        pub(crate) fn curve_keys(&self) -> Option<CurveKeys> {
            None
        }

        /// For dialling an instance of this service, and nobody else; an empty one is not known yet.
        pub(crate) fn connector(&self, service: &str) -> Option<Connector> {
            let (keys, service) = (self.keys.clone()?, service.to_owned());
            Some(Connector(Arc::new(move || {
                let expected = Some(service.as_str()).filter(|service| !service.is_empty());
                keys.current().client_config(expected)
            })))
        }

        /// Why a peer that was let in before would not be now.
        pub(crate) fn recheck(&self, who: &Who) -> Result<(), Refusal> {
            let Some(keys) = &self.keys else { return Ok(()) };
            match &who.proof {
                Proof::None => Ok(()),
                Proof::Curve(key) => match enrolled(&keys.current(), key)? {
                    same if same == who.identity => Ok(()),
                    // Enrolled anew under another name, whose rights it gets with another connection.
                    _ => Err(Refusal::UnknownKey),
                },
                Proof::Certificates(chain) => keys.current().recheck(&certificates(chain), SystemTime::now()),
            }
        }
    }

    impl Who {
        /// When the first of its certificates is over.
        pub(crate) fn ends(&self) -> Option<SystemTime> {
            let Proof::Certificates(chain) = &self.proof else { return None };
            certificates(chain).iter().filter_map(not_after).min()
        }
    }

    fn certificates(chain: &[bytes::Bytes]) -> Vec<CertificateDer<'_>> {
        chain.iter().map(|der| CertificateDer::from(&der[..])).collect()
    }

    /// Whose CURVE key this is.
    #[cfg(feature = "curve")]
    fn enrolled(keys: &Keys, key: &[u8; 32]) -> Result<Identity, Refusal> {
        keys.enrolled(&crate::zmtp::curve::PublicKey::from_bytes(*key)).ok_or(Refusal::UnknownKey)
    }

    #[cfg(not(feature = "curve"))]
    fn enrolled(_: &Keys, _: &[u8; 32]) -> Result<Identity, Refusal> {
        Err(Refusal::UnknownKey)
    }

    /// With the key, so that one who asks to be let in can be told from another, and enrolled.
    #[cfg(feature = "curve")]
    fn unenrolled(refusal: &Refusal, key: &[u8; 32]) -> String {
        format!("{refusal}: {}", crate::zmtp::curve::PublicKey::from_bytes(*key))
    }

    #[cfg(not(feature = "curve"))]
    fn unenrolled(refusal: &Refusal, _: &[u8; 32]) -> String {
        refusal.to_string()
    }

    pub(super) fn generation(keys: &KeyStore) -> u64 {
        *keys.changed().borrow()
    }

    pub(super) fn prove(keys: &KeyStore, proof: &Proof) -> Result<Identity, String> {
        match proof {
            Proof::None => Err("it has proven nothing".into()),
            Proof::Curve(key) => enrolled(&keys.current(), key).map_err(|refusal| unenrolled(&refusal, key)),
            // Once more than TLS has: the keys may have changed since, however long the peer took to say who it is.
            Proof::Certificates(chain) => {
                let (keys, chain) = (keys.current(), certificates(chain));
                let checked = keys.recheck(&chain, SystemTime::now()).and_then(|()| keys.identify(&chain));
                checked.map_err(|refusal| refusal.to_string())
            }
        }
    }
}

#[cfg(not(feature = "tls"))]
mod with_keys {
    use super::{Guard, KeyStore, Who};
    use crate::{
        security::{Identity, Refusal},
        transport::tls::{Acceptor, Connector, Proof},
    };

    impl Guard {
        pub(crate) fn acceptor(&self) -> Option<Acceptor> {
            None
        }

        pub(crate) fn curve_keys(&self) -> Option<crate::socket::mechanism::CurveKeys> {
            None
        }

        pub(crate) fn connector(&self, _: &str) -> Option<Connector> {
            None
        }

        pub(crate) fn recheck(&self, _: &Who) -> Result<(), Refusal> {
            Ok(())
        }
    }

    pub(super) fn generation(keys: &KeyStore) -> u64 {
        match *keys {}
    }

    pub(super) fn prove(keys: &KeyStore, _: &Proof) -> Result<Identity, String> {
        match *keys {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_and_bounded() {
        let guard = Guard::new(None, Permissions::default(), None);
        assert!(guard.strangers.is_news("x") && !guard.strangers.is_news("x"));
        for n in 0..REMEMBERED * 2 {
            guard.refused("spiffe://shop/service/a", Action::Call, &format!("b.{n}"));
        }
        assert_eq!(lock(&guard.members.0).len(), REMEMBERED);
        assert!(guard.strangers.is_news("y"));
    }

    #[test]
    fn without_keys_everyone_may() {
        let guard = Guard::new(None, Permissions::default(), None);
        assert!(guard.service_may("shop", "evil", Action::Serve, "pricing.quote"));
        assert!(matches!(guard.identify(&peer(), &Proof::None), Ok(None)));
    }

    fn peer() -> Peer {
        Peer {
            socket_type: crate::zmtp::SocketType::Dealer,
            minor: 1,
            identity: Default::default(),
            public_key: None,
            metadata: Vec::new(),
        }
    }
}
