//! Every stable code: what it means, whose fault it is, whether trying again is safe, and what to do. A test holds it against the sources.

use super::{Code, Fault};

/// What a code means.
///
/// ```
/// let code = "RS0415".parse().unwrap();
/// let explained = ripstop::code::explain(code).unwrap();
/// assert_eq!(explained.title, "the deadline passed");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Explained {
    /// The code.
    pub code: Code,
    /// In a few words.
    pub title: &'static str,
    /// Whose fault it usually is.
    pub fault: Fault,
    /// Whether trying again is safe and may help.
    pub again: Again,
    /// Where to look and what to do.
    pub advice: &'static str,
    /// The variants that have it.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the test below"))]
    variants: &'static [&'static str],
}

/// Whether trying again is safe and may help.
///
/// ```
/// assert_eq!(ripstop::code::Again::Safe.to_string(), "safe: nothing was done");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Again {
    /// Nothing was done, and it may work the next time.
    Safe,
    /// It may have been done: only what may be done twice is to be tried again, or what has an idempotency key.
    Unsure,
    /// It fails again until somebody changes something.
    Useless,
}

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safe => "safe: nothing was done",
            Self::Unsure => "not safe: it may have been done, so only with an idempotency key, or where twice does no harm",
            Self::Useless => "useless: it fails again until something is changed",
        })
    }
}

/// What this code means; `None`: this release has no such code.
///
/// ```
/// assert!(ripstop::code::explain(ripstop::Code::new(9999)).is_none());
/// ```
pub fn explain(code: Code) -> Option<&'static Explained> {
    ALL.iter().find(|explained| explained.code == code)
}

/// Every code, in order.
///
/// ```
/// assert!(ripstop::code::explained().len() > 80);
/// ```
pub fn explained() -> &'static [Explained] {
    ALL
}

macro_rules! table {
    ($($code:literal $title:literal, $fault:ident, $again:ident, [$($variant:ident),*], $advice:literal;)*) => {
        const ALL: &[Explained] = &[$(Explained {
            code: Code::new($code),
            title: $title,
            fault: Fault::$fault,
            again: Again::$again,
            advice: $advice,
            variants: &[$(stringify!($variant)),*],
        },)*];
    };
}

table! {
    1 "not an endpoint", Caller, Useless, [], "Write tcp://HOST:PORT, tls+tcp://HOST:PORT, ipc://PATH or inproc://NAME.";
    2 "an endpoint that cannot be dialled", Caller, Useless, [NotDialable], "A wildcard address or port 0 is for listening: dial the address that the listener says it has.";
    3 "the socket is closed", Caller, Useless, [Closed], "It was closed or dropped before: keep it for as long as it is used.";
    4 "a connection could not be made", Network, Safe, [Io], "Is somebody listening there, and is the way free (firewall, route, name)? The message has the system's words.";
    5 "the handshake failed", Peer, Safe, [Handshake], "What listens there is not a ZeroMQ socket that fits, or it is too busy. The message says how far it came.";
    6 "the peer refused", Peer, Useless, [Refused], "It said why. A wrong key, a socket type that does not fit, or no permission.";
    7 "no tokio runtime", Caller, Useless, [NoRuntime], "Call it from async code that tokio runs, such as under #[tokio::main].";
    8 "cannot listen", Local, Safe, [Io], "The port is taken, the address is not this machine's, or the path cannot be used. The message has the system's words.";
    9 "not connected to that", Caller, Useless, [], "Disconnect names an endpoint that was given to connect before.";
    10 "the queue is full", Peer, Safe, [Full], "The peer reads more slowly than you send. Wait and send again, or raise the high-water mark.";
    11 "no such peer", Peer, Safe, [Unroutable], "A ROUTER knows no connection with that identity now: it has gone, or is yet to come.";
    12 "a message that is too large", Caller, Useless, [TooLarge], "Raise max_message on both sides, or send less at once.";
    13 "not in this state", Caller, Useless, [State], "REQ sends and receives in turn, and so does REP: take the answer before you ask again.";
    14 "the peer has gone before it answered", Network, Unsure, [PeerLost], "It may have done what was asked.";
    20 "an endpoint that takes keys", Caller, Useless, [NoTls], "tls+tcp:// needs Options::tls and the feature `tls`.";
    40 "not ZMTP", Peer, Useless, [NotZmtp], "Something else listens there, or dials here: HTTP, a port scan, another protocol.";
    41 "a version of ZMTP that is too old", Peer, Useless, [UnsupportedVersion], "ZMTP 3.0 is needed: libzmq 4.0 or later.";
    42 "an unknown security mechanism", Peer, Useless, [UnknownMechanism], "NULL, PLAIN and CURVE are known.";
    43 "the sides differ in their security mechanism", Config, Useless, [MechanismMismatch], "Give both sides keys, or neither.";
    44 "the handshake took too long", Network, Safe, [HandshakeTimeout], "A slow or busy peer, or one that says nothing. See timeouts.handshake.";
    45 "the peer is dead", Network, Unsure, [PeerDead], "Nothing was heard from it for timeouts.dead_after: stopped, cut off or overloaded.";
    46 "bad flags in a frame", Peer, Useless, [BadFlags], "The peer breaks the protocol; so do bytes that are changed on the way.";
    47 "a message before the handshake was over", Peer, Useless, [EarlyMessage], "The peer breaks the protocol.";
    48 "a command that is too large", Peer, Useless, [CommandTooLarge], "The peer breaks the protocol, or limits.handshake_bytes is too small for its metadata.";
    49 "a bad command", Peer, Useless, [BadCommand], "The peer breaks the protocol.";
    50 "an unknown socket type", Peer, Useless, [UnknownSocketType], "The peer's READY names none of the eleven types.";
    51 "socket types that cannot talk", Config, Useless, [IncompatiblePeer], "Such as PUB and PULL: see which types go together.";
    52 "a frame that is too large", Peer, Useless, [FrameTooLarge], "Raise limits.max_message here, or have the peer send less at once.";
    53 "a message that is too large", Peer, Useless, [MessageTooLarge], "Raise limits.max_message here, or have the peer send less at once.";
    54 "too many frames", Peer, Useless, [TooManyFrames], "Raise limits.frames here, or have the peer send fewer.";
    55 "the peer refused", Peer, Useless, [Refused], "Its words are in the message.";
    56 "metadata that cannot be sent", Caller, Useless, [BadMetadata], "A name has 1 to 255 bytes.";
    57 "a CURVE box that does not open", Peer, Useless, [CannotOpen], "A wrong server key, a wrong client key, or bytes changed on the way.";
    58 "a CURVE message that was repeated", Peer, Useless, [Replayed], "Somebody plays recorded messages again, or a proxy mixes connections.";
    59 "a weak CURVE key", Peer, Useless, [WeakKey], "The peer's key is none that is made in earnest.";
    60 "both sides are CURVE servers", Config, Useless, [TwoServers], "One side has to dial as a client.";
    61 "not a CURVE key", Caller, Useless, [], "40 characters of Z85, as `ripstop keys curve` or zmq.curve_keypair() print them.";
    62 "the peer speaks TLS", Config, Useless, [Tls], "It has keys and this side has none: set [security].";
    101 "a discovery source failed", Local, Safe, [Io], "The message has the file or directory and the system's words.";
    102 "a directory that others can write to", Local, Useless, [NotPrivate], "The runtime directory must be its owner's alone: chmod 700.";
    104 "a discovery source gave up", Network, Safe, [Source], "The message says which, and why. It is opened again by itself.";
    201 "the configuration cannot be read", Config, Useless, [Read], "Is the file there, and may this user read it?";
    202 "a wrong value in the configuration", Config, Useless, [Value], "The message has the place and what to write. docs/configuration.md has every key.";
    300 "a body that cannot be written", Caller, Useless, [Unserializable], "The type's Serialize fails, or MessagePack has no such value.";
    301 "a body that is nested too deeply", Caller, Useless, [TooDeep], "64 arrays and maps within each other are the most.";
    310 "bytes that are no message", Peer, Useless, [Subject], "The sender writes something else than MessagePack, or not all of it. The message says at which byte.";
    311 "a body over a limit", Peer, Useless, [TooDeep, TooMany, TooLong], "See limits.depth and limits.elements.";
    312 "a body of another type", Peer, Useless, [Expected, Mismatch], "Both sides' types differ: the message has the path of the value that does not fit.";
    313 "an unknown version or kind of header", Peer, Useless, [Version, Kind], "The sender is of a release that this one does not understand.";
    320 "not a subject", Caller, Useless, [], "Tokens with dots between them, 255 bytes at most, no `$` or `@` in front.";
    330 "not an answer", Peer, Useless, [NotAnAnswer], "The message has another kind than reply or error.";
    400 "the configuration is wrong", Config, Useless, [Config], "The message has the place and what to write.";
    401 "not a name for a service or fabric", Caller, Useless, [Name], "A service is one token: no dots, spaces or wildcards.";
    402 "cannot listen", Local, Safe, [Listen], "The port is taken, or the address is not this machine's. Port 0 takes a free one.";
    403 "a discovery source cannot be opened", Local, Safe, [Discovery], "The message says which, and why.";
    404 "not a subject", Caller, Useless, [Subject, Name], "Tokens with dots between them, such as pricing.quote; `*` and `>` only in patterns.";
    405 "served already", Caller, Useless, [Taken], "This node has a handler for that method: stop the first, or choose another subject.";
    406 "the node is leaving", Caller, Useless, [Draining], "It drains, or has drained: begin nothing new with it.";
    407 "a value that cannot be written", Caller, Useless, [Encode], "The type's Serialize fails, or it is nested too deeply.";
    408 "the data directory cannot be used", Local, Useless, [DataDir], "Another process has it, it is not writable, or what is in it is damaged. The message says which.";
    409 "keys or rules cannot be used", Config, Useless, [Security], "The message says which file or rule, and why.";
    410 "no such service", Network, Safe, [NoSuchService], "Nobody of that name was ever seen in this fabric: is the name right, the fabric the same, and discovery able to find it? `ripstop peers` shows who is there.";
    411 "no instance is alive", Network, Safe, [NoInstance], "The service is known, and none of its instances can be reached now. The message has the last reason; start one, or wait.";
    412 "no such method", Caller, Useless, [NoSuchMethod], "The service is there and has no method of that name. `ripstop stats SERVICE` shows what it has.";
    413 "the request could not be read", Caller, Useless, [BadRequest], "Both sides' types differ: the message has the path of the value that does not fit.";
    414 "the reply could not be read", Peer, Unsure, [Decode], "The handler has acted, and replies with another type than the caller expects.";
    415 "the deadline passed", Peer, Unsure, [Deadline], "The handler is slow, or waits for a place, or the caller gave too little time. `ripstop stats SERVICE` shows how long it takes and what waits.";
    416 "the handler failed", Peer, Unsure, [Handler], "The message is the handler's own, and its node's log may say more. Where the handler says that nothing was done, it is tried again by itself.";
    417 "a message that is too large", Caller, Useless, [TooLarge], "Raise limits.max_message on both sides, or send less at once.";
    418 "full", Peer, Safe, [Full], "More waits than is taken. Send more slowly, start more instances, or raise .concurrency or limits.in_flight there.";
    419 "the instance vanished during the call", Network, Unsure, [Lost], "It was killed, cut off or restarted. Whether the handler has acted, nobody knows.";
    420 "too few subscribers", Network, Safe, [NotReady], "Nobody subscribed in time. Are they in the same fabric, and is the topic's first token one that they look for?";
    421 "nobody pulls the queue", Network, Safe, [NoPuller], "Start a worker, or look at the name of the queue.";
    422 "too many calls of our own under way", Local, Safe, [HeldBack], "The service is slow, or is asked too much: look at it first. Then raise limits.in_flight or resilience.waiting, or ask less.";
    430 "a message could not be read", Peer, Useless, [Decode], "Sender and receiver differ in the type. Those that come after it are unaffected.";
    440 "forbidden", Config, Useless, [Forbidden], "The message says who may not do what. See [[allow]] on the node that refused.";
    500 "a key file cannot be read or written", Local, Safe, [Io], "The message has the file and the system's words.";
    501 "a secret that others can read", Local, Useless, [NotPrivate], "chmod 600.";
    502 "a key file that is not one", Config, Useless, [Material], "The message has the file and what was expected.";
    503 "keys that do not belong together", Config, Useless, [Setup], "The message says what is missing or differs.";
    504 "a wrong rule", Config, Useless, [Rule], "The message has the place in [[allow]] and what to write.";
    505 "not an identity", Caller, Useless, [Identity], "A service is one token, a fabric a name.";
    510 "no certificate", Peer, Useless, [NoCertificate], "The peer has none: `ripstop keys issue` makes one.";
    511 "an expired certificate", Peer, Useless, [Expired], "Issue a new one. If the date is in the future, a clock is wrong.";
    512 "a certificate that is not valid yet", Peer, Useless, [NotYetValid], "A clock is wrong, on this machine or on the one that issued it.";
    513 "a certificate of another CA", Peer, Useless, [UnknownIssuer], "Both sides need the same ca.pem, or each other's in it.";
    514 "a revoked certificate", Peer, Useless, [Revoked], "Issue a new one, if it should be let in.";
    515 "a certificate of another fabric", Peer, Useless, [WrongFabric], "The peer belongs to another fabric.";
    516 "a certificate of another service", Peer, Useless, [WrongService], "What answers there is not the service that was dialled: an old advert, or somebody who pretends.";
    517 "a certificate that names no service", Peer, Useless, [NoIdentity], "It needs the URI name spiffe://FABRIC/service/NAME.";
    518 "a certificate that is for something else", Peer, Useless, [Usage], "It must be allowed for both client and server authentication.";
    519 "a broken certificate", Peer, Useless, [Broken], "It cannot be read, or its signature is wrong.";
    520 "a CURVE key that is not enrolled", Peer, Useless, [UnknownKey], "`ripstop keys curve enroll` on the node that refused.";
    600 "no place on disk", Config, Useless, [NoStore], "Durable work takes data_dir.";
    601 "the store cannot be opened", Local, Useless, [Open], "Another process has it, or it is damaged: `ripstop store check`.";
    602 "the store is full", Local, Safe, [Full], "Nothing was accepted. See durable.messages and durable.bytes, and why nobody takes what waits: `ripstop outbox`.";
    603 "the disk failed", Local, Safe, [Disk], "Nothing was accepted. Is the disk full or failing? The message has the system's words.";
    604 "an item on disk is damaged", Local, Useless, [Damaged], "It was put aside; `ripstop store check` tells of it.";
    605 "the store is closed", Caller, Useless, [Closed], "Its node has drained.";
    606 "the item could not be kept", Local, Safe, [Store], "Nothing was accepted. The message says what the store said.";
    607 "the item became a dead letter", Peer, Useless, [Dead], "It failed as often as durable.attempts allows: `ripstop dlq`.";
    608 "a key that is too long", Caller, Useless, [Key], "255 bytes at most.";
    609 "nobody subscribes durably", Config, Safe, [NoDurableGroup], "List [[durable.groups]], set durable.retain, or start a subscriber first.";
    610 "the event could not be kept", Local, Safe, [Keep], "Nothing was accepted. The message says why.";
    611 "an idempotency key with another request", Caller, Useless, [KeyReused], "A key stands for one request: the first with this key was another one.";
    612 "another node's store", Peer, Useless, [Elsewhere], "It could not be asked, or said something else. The message says what.";
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    use super::*;

    /// One place where a code is given: number, variants, and fault and retry where they stand beside it.
    #[derive(Debug)]
    struct Given {
        code: u16,
        variants: Vec<String>,
        beside: Option<(String, bool)>,
    }

    fn number(text: &str) -> Option<u16> {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    /// What a line of an error table says, if it is one. `bare`: within `Code::new(match …)`.
    fn given(line: &str, bare: bool) -> Option<Given> {
        let (pattern, value) = line.split_once("=>")?;
        // With the handler's own word for it: the row after it is the rule.
        if pattern.contains("Verdict::") {
            return None;
        }
        let names = pattern.split("::").skip(1);
        let variants = names.map(|name| name.chars().take_while(|c| c.is_alphanumeric()).collect()).collect();
        let value = value.trim();
        let row = value.strip_prefix('(').and_then(|row| row.split_once(','));
        let (code, beside) = match row {
            Some((first, rest)) if first.starts_with('"') => (number(rest.trim())?, None),
            Some((first, rest)) => {
                let (fault, retry) = rest.trim_end_matches([')', ',']).split_once(',')?;
                (number(first)?, Some((fault.trim().to_owned(), retry.trim() == "true")))
            }
            None if value.starts_with("Code::new(") => (number(&value["Code::new(".len()..])?, None),
            None if bare => (number(value)?, None),
            None => return None,
        };
        Some(Given { code, variants, beside })
    }

    fn sources(dir: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if !path.ends_with("code/explained.rs") {
                let text = fs::read_to_string(&path).unwrap();
                // Tests make up codes of their own.
                into.push(text.split("#[cfg(test)]").next().unwrap().to_owned());
            }
        }
    }

    /// A code that is missing here, or that stands for two different things, fails this.
    #[test]
    fn every_code_is_explained_and_means_one_thing() {
        let (mut texts, mut found) = (Vec::new(), BTreeMap::<u16, BTreeSet<String>>::new());
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        let mut table = 0;
        for text in &texts {
            let mut bare = false;
            for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
                if let Some(Given { code, variants, beside }) = given(line, bare) {
                    found.entry(code).or_default().extend(variants);
                    if let Some((fault, retry)) = beside {
                        table += 1;
                        let known = explain(Code::new(code)).unwrap_or_else(|| panic!("RS{code:04}: {line}"));
                        assert_eq!(format!("{:?}", known.fault), fault, "{line}");
                        assert_eq!(known.again == Again::Safe, retry, "{line}");
                    }
                } else if let Some((_, code)) =
                    line.split_once("Code::new(").filter(|(before, _)| !before.contains('"'))
                {
                    found.entry(number(code).unwrap_or(1)).or_default();
                } else if let Some((_, code)) = line.split_once("error_body(") {
                    found.entry(number(code).unwrap_or(416)).or_default();
                }
                bare = (bare || line.contains("Code::new(match")) && line != "})";
            }
        }
        assert!(table > 50, "only {table} rows: does this still look at the tables?");
        let all: BTreeMap<u16, BTreeSet<String>> = ALL
            .iter()
            .map(|known| (known.code.number(), known.variants.iter().map(|v| (*v).to_owned()).collect()))
            .collect();
        assert_eq!(all.len(), ALL.len(), "a code is explained twice");
        for (code, variants) in &found {
            assert_eq!(
                all.get(code),
                Some(variants),
                "RS{code:04}: explained on the left, in the sources on the right"
            );
        }
        let gone: Vec<_> = all.keys().filter(|code| !found.contains_key(code)).collect();
        assert!(gone.is_empty(), "explained, but given nowhere: {gone:?}");
    }

    #[test]
    fn they_are_in_order_and_say_something() {
        assert!(ALL.is_sorted_by_key(|known| known.code));
        assert!(ALL.iter().all(|known| known.advice.ends_with(['.', '?']) && known.advice.len() > 8));
    }
}
