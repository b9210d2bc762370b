//! How connections prove who they are, and where the keys and random bytes for that come from.

use std::io;
#[cfg(feature = "curve")]
use std::{collections::HashSet, sync::Arc};

use crate::transport::tls::Proof;
use crate::zmtp;
#[cfg(feature = "curve")]
use crate::zmtp::curve::{Client, KeyPair, PublicKey, SecretKey, Server};

/// What all connections of one dial, or of one listener, have in common.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mechanism {
    #[default]
    Null,
    /// As a client of whoever has this key.
    #[cfg(feature = "curve")]
    CurveClient { server: PublicKey, keys: Arc<KeyPair> },
    #[cfg(feature = "curve")]
    CurveServer(Arc<KeyPair>),
}

impl Mechanism {
    /// Whether what is sent will be sealed.
    pub(super) fn seals(&self) -> bool {
        !matches!(self, Self::Null)
    }

    /// What one connection needs: new random bytes each time.
    pub(super) fn begin(&self) -> io::Result<zmtp::Mechanism> {
        Ok(match self {
            Self::Null => zmtp::Mechanism::Null,
            #[cfg(feature = "curve")]
            Self::CurveClient { server, keys } => {
                zmtp::Mechanism::CurveClient(Client::new(*server, (**keys).clone(), random()?))
            }
            #[cfg(feature = "curve")]
            Self::CurveServer(keys) => zmtp::Mechanism::CurveServer(Server::new((**keys).clone(), random()?)),
        })
    }
}

/// What a listener proves to be to those who speak CURVE: asked for at each connection, so that a change of keys reaches
/// the next one. `None`: there is no key (any more), and nobody comes in that way.
#[cfg(feature = "curve")]
#[derive(Clone)]
pub(crate) struct CurveKeys(pub(crate) Arc<dyn Fn() -> Option<Arc<KeyPair>> + Send + Sync>);

#[cfg(feature = "curve")]
impl std::fmt::Debug for CurveKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CurveKeys")
    }
}

/// Without the feature `curve` nobody can make one.
#[cfg(not(feature = "curve"))]
#[derive(Clone, Debug)]
pub(crate) enum CurveKeys {}

impl CurveKeys {
    pub(super) fn mechanism(&self) -> Option<Mechanism> {
        #[cfg(feature = "curve")]
        return (self.0)().map(Mechanism::CurveServer);
        #[cfg(not(feature = "curve"))]
        match *self {}
    }
}

/// A new key pair, from the operating system's generator.
///
/// Errors: the generator fails only on exotic systems, early at boot.
///
/// ```
/// use ripstop::socket::curve_keys;
///
/// assert_ne!(curve_keys()?.public(), curve_keys()?.public());
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(feature = "curve")]
pub fn curve_keys() -> io::Result<KeyPair> {
    random().map(|bytes| SecretKey::from_bytes(bytes).into())
}

#[cfg(feature = "curve")]
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// What one `connect_with` keeps to, beside the socket's [`Options`](crate::socket::Options).
///
/// ```
/// let plain = ripstop::socket::ConnectOptions::new();
/// ```
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    pub(super) mechanism: Mechanism,
}

impl ConnectOptions {
    /// As `connect` does it: without security.
    ///
    /// ```
    /// let plain = ripstop::socket::ConnectOptions::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Dials with CURVE, as `keys`, a peer that must have the key `server`: before it has proven that, nothing but a key
    /// made for this one connection is sent, and without that proof nothing ever is. Default: no security. Each
    /// `connect_with` can have other keys, so that one socket can dial many servers.
    ///
    /// The server learns the public key of `keys`, and may refuse it. On every transport, `inproc://` too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripstop::socket::{ConnectOptions, Push, curve_keys};
    ///
    /// let server = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7".parse()?; // as its owner told us
    /// let push = Push::new();
    /// push.connect_with("tcp://127.0.0.1:5555", ConnectOptions::new().curve(server, curve_keys()?))?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "curve")]
    #[must_use]
    pub fn curve(mut self, server: PublicKey, keys: KeyPair) -> Self {
        self.mechanism = Mechanism::CurveClient { server, keys: Arc::new(keys) };
        self
    }
}

/// What a socket asks of those who dial it.
#[derive(Clone, Debug, Default)]
pub(super) struct Accept {
    #[cfg(feature = "curve")]
    pub(super) keys: Option<Arc<KeyPair>>,
    /// Whom to let in; `None`: everybody.
    #[cfg(feature = "curve")]
    pub(super) clients: Option<Arc<HashSet<PublicKey>>>,
}

impl Accept {
    pub(super) fn keys(&self) -> Option<CurveKeys> {
        #[cfg(feature = "curve")]
        return self.keys.clone().map(|keys| CurveKeys(Arc::new(move || Some(keys.clone()))));
        #[cfg(not(feature = "curve"))]
        None
    }

    /// Whether the peer that has proven this may come in.
    pub(super) fn allows(&self, proof: &Proof) -> bool {
        #[cfg(feature = "curve")]
        if let (Some(clients), Proof::Curve(key)) = (&self.clients, proof) {
            return clients.contains(&PublicKey::from_bytes(*key));
        }
        let _ = proof; // with keys, nobody gets here without one
        true
    }
}

#[cfg(feature = "curve")]
#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};

    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::message::Message;
    use crate::socket::core::{
        Admission, Admit, Core, Disconnect, Flow, LinkOptions, ListenOptions, Origin, Refusal,
    };
    use crate::socket::gate::Gate;
    use crate::socket::listen::listen;
    use crate::socket::monitor::Reporter;
    use crate::socket::pipe::Pipe;
    use crate::socket::{Event, Options, Push};
    use crate::sync::lock;
    use crate::zmtp::{Local, Peer, Received, SocketType};

    /// Asks somebody who takes his time.
    struct Door {
        me: Weak<Self>,
        asked: mpsc::UnboundedSender<Proof>,
        answered: Arc<Notify>,
        /// What is said to the next; `None`: come in.
        refusal: Mutex<Option<Refusal>>,
        got: mpsc::UnboundedSender<(Option<Arc<[u8; 32]>>, Message)>,
    }

    impl Core for Door {
        fn admit(&self, _: &Peer, _: &Origin, proof: &Proof) -> Admit {
            self.asked.send(proof.clone()).unwrap();
            let Proof::Curve(key) = proof.clone() else { panic!("{proof:?}") };
            let (me, answered) = (self.me.upgrade().unwrap(), self.answered.clone());
            Admit::Later(Box::pin(async move {
                answered.notified().await;
                let refusal = lock(&me.refusal).take();
                let local = Local::new(SocketType::Pull);
                let admission = Admission { local, core: me, about: Some(Arc::new(key)) };
                refusal.map_or(Ok(admission), Err)
            }))
        }

        fn joined(&self, _: &Arc<Pipe>) {}

        fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
            for message in received.messages.drain(..) {
                self.got.send((pipe.about(), message)).unwrap();
            }
            Flow::Continue
        }

        fn left(&self, _: &Arc<Pipe>, _: &Disconnect) {}
    }

    /// The client is proven before anybody is asked, nothing of it is taken before the answer, and all three answers reach
    /// it: come in, not now, never.
    #[tokio::test]
    async fn the_answer_may_take_its_time() {
        let ((asked, mut asks), (got, mut gets)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let not_now = Refusal { reason: "not now".into(), last: false };
        let door = Arc::new_cyclic(|me| Door {
            me: me.clone(),
            asked,
            answered: Arc::default(),
            refusal: Mutex::new(Some(not_now)),
            got,
        });
        let (server, client) = (Arc::new(curve_keys().unwrap()), curve_keys().unwrap());
        let keys = server.clone();
        let options = ListenOptions {
            link: LinkOptions::default(),
            tls: None,
            curve: Some(CurveKeys(Arc::new(move || Some(keys.clone())))),
        };
        let (gate, endpoint) = (Gate::new(Default::default()), "tcp://127.0.0.1:0".parse().unwrap());
        let listening = listen(endpoint, options, gate, door.clone(), Reporter::default()).await.unwrap();

        let push = Push::with_options(Options::new());
        let mut seen = push.monitor();
        let to = ConnectOptions::new().curve(server.public(), client.clone());
        push.connect_with(listening.endpoint(), to.clone()).unwrap();
        push.send("hello").await.unwrap();
        for _ in 0..2 {
            // Not now, so it comes back; then it may come in.
            assert_eq!(asks.recv().await, Some(Proof::Curve(*client.public().as_bytes())));
            assert!(gets.try_recv().is_err());
            door.answered.notify_one();
        }
        let (who, message) = gets.recv().await.unwrap();
        assert_eq!((who.as_deref(), message), (Some(client.public().as_bytes()), "hello".into()));
        let mut retried = false;
        while let Some(event) = seen.next().await {
            retried |= matches!(event, Event::Retrying { .. });
            if matches!(event, Event::Connected { .. }) {
                break;
            }
        }
        assert!(retried);

        *lock(&door.refusal) = Some(Refusal { reason: "never".into(), last: true });
        let other = Push::new();
        let mut seen = other.monitor();
        other.connect_with(listening.endpoint(), to).unwrap();
        asks.recv().await.unwrap();
        door.answered.notify_one();
        let reason = loop {
            match seen.next().await {
                Some(Event::GaveUp { reason, .. }) => break reason,
                Some(_) => {}
                None => panic!("it went away"),
            }
        };
        assert!(reason.contains("never"), "{reason}");
    }
}
