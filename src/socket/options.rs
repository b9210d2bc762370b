//! What a socket keeps to.

use std::time::Duration;

use bytes::Bytes;

use crate::socket::core::{LinkOptions, Reconnect};
use crate::socket::gate;
use crate::socket::mechanism::Accept;
use crate::socket::subscriptions::Caps;
use crate::transport::tls::{Acceptor, Connector};
use crate::zmtp::{Heartbeat, Limits, Local, SocketType};

/// What a publisher does with a message for a subscriber whose queue is full.
///
/// ```
/// assert_eq!(ripstop::socket::WhenFull::default(), ripstop::socket::WhenFull::Drop);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// Drops the new message for that subscriber, as libzmq does.
    #[default]
    Drop,
    /// Drops that subscriber's oldest queued messages.
    DropOldest,
    /// Waits until every matching subscriber has room. Danger: one that stops reading stops the publisher until its
    /// connection is given up.
    Block,
}

/// A socket's options; set them before the socket is made.
///
/// ```
/// use std::time::Duration;
/// use ripstop::socket::{Options, Push};
///
/// let push = Push::with_options(Options::new().send_hwm(1000).linger(Some(Duration::from_secs(1))));
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) link: LinkOptions,
    pub(super) accept: Accept,
    pub(super) receive_hwm: usize,
    pub(super) receive_hwm_bytes: usize,
    pub(super) linger: Option<Duration>,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) identity: Bytes,
    pub(super) immediate: bool,
    pub(super) mandatory: bool,
    pub(super) correlate: bool,
    pub(super) when_full: WhenFull,
    pub(super) verbose: bool,
    pub(super) caps: Caps,
    pub(super) gate: gate::Caps,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) connector: Option<Connector>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            link: LinkOptions::default(),
            accept: Accept::default(),
            receive_hwm: 65_536,
            receive_hwm_bytes: 16 << 20,
            linger: Some(Duration::from_secs(10)),
            reconnect: Some(Reconnect::default()),
            identity: Bytes::new(),
            immediate: false,
            mandatory: true,
            correlate: true,
            when_full: WhenFull::default(),
            verbose: false,
            caps: Caps { count: 65_536, length: 4096, bytes: 16 << 20 },
            gate: gate::Caps::default(),
            acceptor: None,
            connector: None,
        }
    }
}

impl Options {
    /// The defaults, as each method states them.
    ///
    /// ```
    /// let options = ripstop::socket::Options::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages queued for one peer before it counts as full. Default 65,536; 0: no limit, and memory is the limit.
    /// Messages handed to the connection (up to about 128 KiB) and to the kernel no longer count.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().send_hwm(1000);
    /// ```
    #[must_use]
    pub fn send_hwm(mut self, messages: usize) -> Self {
        self.link.hwm_messages = messages;
        self
    }

    /// The same in bytes, whichever comes first. Default 16 MiB; 0: no limit. An empty queue takes any message.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().send_hwm_bytes(1 << 20);
    /// ```
    #[must_use]
    pub fn send_hwm_bytes(mut self, bytes: usize) -> Self {
        self.link.hwm_bytes = bytes;
        self
    }

    /// Messages received from one peer and not yet taken before its connection is no longer read. Default 65,536;
    /// 0: no limit. Reading goes on at half.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().receive_hwm(1000);
    /// ```
    #[must_use]
    pub fn receive_hwm(mut self, messages: usize) -> Self {
        self.receive_hwm = messages;
        self
    }

    /// The same in bytes, whichever comes first. Default 16 MiB; 0: no limit.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().receive_hwm_bytes(1 << 20);
    /// ```
    #[must_use]
    pub fn receive_hwm_bytes(mut self, bytes: usize) -> Self {
        self.receive_hwm_bytes = bytes;
        self
    }

    /// How long a closed socket (or a disconnected endpoint) may take to write what is queued. Default 10 s; `None`:
    /// as long as it takes (libzmq's default); zero: drop it. Danger: a process that ends without awaiting `close`
    /// drops what is queued whatever this says.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().linger(None);
    /// ```
    #[must_use]
    pub fn linger(mut self, linger: Option<Duration>) -> Self {
        self.linger = linger;
        self
    }

    /// How often a peer is pinged, and after how long a silence it counts as gone. Default 2 s and 6 s; `None`: no
    /// PINGs, and a peer whose host vanished is noticed only by TCP. Peers of ZMTP 3.0 are never pinged.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ripstop::socket::Options;
    /// let options = Options::new().heartbeat(Some((Duration::from_secs(1), Duration::from_secs(3))));
    /// ```
    #[must_use]
    pub fn heartbeat(mut self, interval_and_timeout: Option<(Duration, Duration)>) -> Self {
        self.link.heartbeat = interval_and_timeout.map(|(interval, timeout)| Heartbeat { interval, timeout });
        self
    }

    /// How long connecting, and after it the whole handshake, may take each. Default 5 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ripstop::socket::Options;
    /// let options = Options::new().handshake_timeout(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.link.limits.handshake = timeout;
        self
    }

    /// The largest message sent or received, the sum of its frames in bytes. Default 16 MiB. A peer that sends a
    /// larger one is disconnected. At most 1 GiB can be sent.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_message(1 << 20);
    /// ```
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.link.limits.max_message = bytes;
        self
    }

    /// When a dialled endpoint is tried again: after a random time between 0 and `min * 2^n`, `max` at most. Default
    /// 50 ms to 5 s; `None`: never.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ripstop::socket::Options;
    /// let options = Options::new().reconnect(Some((Duration::from_millis(10), Duration::from_secs(1))));
    /// ```
    #[must_use]
    pub fn reconnect(mut self, min_and_max: Option<(Duration, Duration)>) -> Self {
        self.reconnect = min_and_max.map(|(min, max)| Reconnect { min, max });
        self
    }

    /// The routing id that a ROUTER is asked to know this socket by. Default none: the ROUTER makes one up. At most
    /// 255 bytes, cut there; one that begins with a zero byte is ignored by ROUTERs.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().identity("worker-1");
    /// ```
    #[must_use]
    pub fn identity(mut self, identity: impl AsRef<[u8]>) -> Self {
        let identity = identity.as_ref();
        self.identity = Bytes::copy_from_slice(identity.get(..255).unwrap_or(identity));
        self
    }

    /// Queue only for peers that are connected. Default `false`: an endpoint that was dialled takes messages before
    /// its first connection and between two.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().immediate(true);
    /// ```
    #[must_use]
    pub fn immediate(mut self, immediate: bool) -> Self {
        self.immediate = immediate;
        self
    }

    /// `Router`: a message for an unknown peer is an error. Default `true`; `false`: it is dropped and counted, as
    /// libzmq does by default.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().router_mandatory(false);
    /// ```
    #[must_use]
    pub fn router_mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// `Req`: each request carries an id that the reply must repeat, so that a late reply is never taken for the
    /// current one. Default `true`. Every ROUTER, and every REP that keeps the envelope as RFC 28 says, repeats it;
    /// turn it off only for a peer that does not. Danger: then a reply that comes late is taken for the next one's.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().req_correlate(false);
    /// ```
    #[must_use]
    pub fn req_correlate(mut self, correlate: bool) -> Self {
        self.correlate = correlate;
        self
    }

    /// `Pub`, `XPub`: what happens to a message for a subscriber whose queue is full. Default [`WhenFull::Drop`].
    ///
    /// ```
    /// # use ripstop::socket::{Options, WhenFull};
    /// let options = Options::new().when_full(WhenFull::DropOldest);
    /// ```
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// `XPub`: hand out every subscription and cancellation, not only the first and the last of a prefix. Default
    /// `false`.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().xpub_verbose(true);
    /// ```
    #[must_use]
    pub fn xpub_verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }

    /// `Pub`, `XPub`: how many subscriptions one peer may have. Default 65,536, of 4 KiB each and 16 MiB together.
    /// A peer that wants more is disconnected.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_subscriptions(1000);
    /// ```
    #[must_use]
    pub fn max_subscriptions(mut self, count: usize) -> Self {
        self.caps.count = count;
        self
    }

    /// `Pub`, `XPub`: the longest subscription, in bytes. Default 4 KiB. A peer that sends a longer one is
    /// disconnected.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_subscription_length(256);
    /// ```
    #[must_use]
    pub fn max_subscription_length(mut self, bytes: usize) -> Self {
        self.caps.length = bytes;
        self
    }

    /// `Pub`, `XPub`: the bytes of one peer's subscriptions together. Default 16 MiB. A peer that wants more is
    /// disconnected.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_subscription_bytes(1 << 20);
    /// ```
    #[must_use]
    pub fn max_subscription_bytes(mut self, bytes: usize) -> Self {
        self.caps.bytes = bytes;
        self
    }

    /// Connections that come in, handshakes included: in all listeners together, and from one IP address (one /64
    /// of IPv6). Default 4,096 and 1,024; 0: no limit, and descriptors are the limit. One more is closed at once;
    /// those that are up stay.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_connections(100, 10);
    /// ```
    #[must_use]
    pub fn max_connections(mut self, in_all: usize, per_address: usize) -> Self {
        self.gate.connections = in_all;
        self.gate.connections_per_address = per_address;
        self
    }

    /// Handshakes that may be under way at one listener, and of them from one IP address. Default 256 and 128; 0: no
    /// limit. One more gives up the oldest, which is the least likely to be an honest one.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_handshakes(64, 16);
    /// ```
    #[must_use]
    pub fn max_handshakes(mut self, in_all: usize, per_address: usize) -> Self {
        self.gate.handshakes = in_all;
        self.gate.handshakes_per_address = per_address;
        self
    }

    /// New connections a second from one IP address, and as many at once after a second's rest. Default 500; 0: no
    /// limit. More are closed at once. Danger: everyone behind one address translation shares it.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().handshake_rate(50);
    /// ```
    #[must_use]
    pub fn handshake_rate(mut self, per_second: u32) -> Self {
        self.gate.rate = per_second;
        self
    }

    /// The longest frame of a handshake, in bytes. Default 64 KiB; a peer that announces a longer one is disconnected.
    /// At least about 100 are needed, for CURVE 400.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_handshake_frame(4096);
    /// ```
    #[must_use]
    pub fn max_handshake_frame(mut self, bytes: usize) -> Self {
        self.link.limits.max_unauthenticated_frame = bytes;
        self
    }

    /// The most frames of one received message, empty ones too. Default 1,024. A peer that sends more is disconnected.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().max_frames(16);
    /// ```
    #[must_use]
    pub fn max_frames(mut self, frames: usize) -> Self {
        self.link.limits.max_frames = frames;
        self
    }

    /// All that one connection may make this process hold, in bytes: what is queued for it, what has come from it and
    /// was not taken yet, the message that has begun, and its subscriptions. Default 64 MiB; 0: no limit. Over it,
    /// nothing more is queued for the peer and nothing is read from it until some of it is gone. Give at least the
    /// largest message.
    ///
    /// ```
    /// # use ripstop::socket::Options;
    /// let options = Options::new().peer_memory(32 << 20);
    /// ```
    #[must_use]
    pub fn peer_memory(mut self, bytes: usize) -> Self {
        self.link.memory = bytes;
        self
    }

    /// What `tls+tcp://` endpoints use, bound and dialled: the certificates that this side shows, and whom it trusts.
    /// Default none. Both sides should be TLS 1.3 with certificates on each; the address that was dialled is not
    /// compared with the name in the peer's certificate, which the client configuration's verifier has to judge. A message is sealed together with its whole batch.
    ///
    /// ```no_run
    /// # fn f(server: std::sync::Arc<rustls::ServerConfig>, client: std::sync::Arc<rustls::ClientConfig>) {
    /// let options = ripstop::socket::Options::new().tls(server, client);
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(
        mut self,
        server: std::sync::Arc<rustls::ServerConfig>,
        client: std::sync::Arc<rustls::ClientConfig>,
    ) -> Self {
        self.acceptor = Some(Acceptor(std::sync::Arc::new(move || server.clone())));
        self.connector = Some(Connector(std::sync::Arc::new(move || client.clone())));
        self
    }

    /// Everybody who dials this socket has to speak CURVE, to a server with this key: tell clients
    /// [`secret.public_key()`](crate::zmtp::curve::SecretKey::public_key). Plain connections are refused. Default: no
    /// security, and CURVE connections are refused. `tls+tcp://` endpoints take both, TLS and CURVE. What this socket dials is another matter:
    /// [`ConnectOptions::curve`](crate::socket::ConnectOptions::curve).
    ///
    /// ```
    /// use ripstop::socket::{Options, Pull, curve_keys};
    ///
    /// let keys = curve_keys()?;
    /// println!("server key: {}", keys.public());
    /// let pull = Pull::with_options(Options::new().curve_server(keys.secret().clone()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "curve")]
    #[must_use]
    pub fn curve_server(mut self, secret: crate::zmtp::curve::SecretKey) -> Self {
        self.accept.keys = Some(std::sync::Arc::new(secret.into()));
        self
    }

    /// The only clients that may come in through CURVE, by their public keys; all others are refused for good, and told
    /// so. Default: everybody who knows the server's key. Without [`curve_server`](Self::curve_server) it means nothing.
    ///
    /// ```
    /// use ripstop::socket::{Options, curve_keys};
    ///
    /// let (server, client) = (curve_keys()?, curve_keys()?);
    /// let options = Options::new().curve_server(server.secret().clone()).curve_clients([client.public()]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "curve")]
    #[must_use]
    pub fn curve_clients(mut self, clients: impl IntoIterator<Item = crate::zmtp::curve::PublicKey>) -> Self {
        self.accept.clients = Some(std::sync::Arc::new(clients.into_iter().collect()));
        self
    }

    pub(super) fn local(&self, socket_type: SocketType) -> Local {
        // As libzmq: these types always name an identity, if only an empty one.
        let named = matches!(socket_type, SocketType::Req | SocketType::Dealer | SocketType::Router);
        let metadata = match named || !self.identity.is_empty() {
            true => vec![("Identity".to_owned(), self.identity.clone())],
            false => Vec::new(),
        };
        Local { socket_type, metadata }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.link.limits
    }
}
