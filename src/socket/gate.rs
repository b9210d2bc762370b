//! Who may come in: caps on connections, in all and per address, and on their rate, before a byte is read.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::socket::limit::Limit;
use crate::sync::lock;

/// What a gate keeps to. 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caps {
    /// Connections in all, handshakes included.
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
    /// Handshakes at one listener. One more evicts the oldest: an honest handshake takes milliseconds, so the oldest
    /// is the least likely to be one.
    pub(crate) handshakes: usize,
    pub(crate) handshakes_per_address: usize,
    /// New connections a second from one address, and as many at once after a rest.
    pub(crate) rate: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            handshakes: 256,
            handshakes_per_address: 128,
            rate: 500,
        }
    }
}

/// Addresses remembered beside those that have connections. A rate is forgotten after a second anyway, so this many
/// new ones within a second are a flood of its own kind.
const ADDRESSES: usize = 16 * 1024;
/// How often to look for addresses to forget when there are that many.
const FORGET: Duration = Duration::from_millis(100);
/// At most one line of log per limit in this time.
const QUIET: Duration = Duration::from_secs(60);

/// One owner's caps: a socket, or a node with all its listeners.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) caps: Caps,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    addresses: HashMap<IpAddr, Address>,
    /// The size of `addresses` at which to forget.
    forget_at: usize,
    forgotten: Option<Instant>,
    warned: HashMap<Limit, (Instant, u64)>,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    /// Connections that may still begin, as of `at`.
    tokens: f64,
    at: Instant,
}

impl Gate {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self { caps, state: Mutex::default() })
    }

    /// Counts a connection in, for as long as the pass lives.
    pub(crate) fn enter(self: &Arc<Self>, ip: Option<IpAddr>, now: Instant) -> Result<Pass, Limit> {
        let address = ip.map(network);
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(address) = address {
            let rate = f64::from(self.caps.rate);
            if state.addresses.len() >= state.forget_at.max(64) && !state.make_room(rate, now) {
                return Err(Limit::HandshakeRate);
            }
            let of =
                state.addresses.entry(address).or_insert(Address { connections: 0, tokens: rate, at: now });
            of.refill(rate, now);
            if self.caps.rate > 0 {
                if of.tokens < 1.0 {
                    return Err(Limit::HandshakeRate);
                }
                of.tokens -= 1.0;
            }
            if over(of.connections, self.caps.connections_per_address) {
                return Err(Limit::ConnectionsPerAddress);
            }
        }
        if over(state.connections, self.caps.connections) {
            return Err(Limit::Connections);
        }
        state.connections += 1;
        if let Some(of) = address.and_then(|address| state.addresses.get_mut(&address)) {
            of.connections += 1;
        }
        Ok(Pass { gate: self.clone(), address })
    }

    /// Counts a limit that was hit, and now and then logs it.
    pub(crate) fn limited(&self, limit: Limit, remote: &str, now: Instant) {
        limit.count();
        tracing::debug!(limit = limit.reason(), remote, "limited");
        let mut state = lock(&self.state);
        let (since, times) = state.warned.entry(limit).or_insert((now, 0));
        let first = *times == 0;
        *times += 1;
        if !first && now.duration_since(*since) < QUIET {
            return;
        }
        let times = std::mem::replace(times, 1);
        *since = now;
        drop(state);
        tracing::warn!(limit = limit.reason(), remote, times, "{limit}");
    }
}

fn over(count: usize, cap: usize) -> bool {
    cap > 0 && count >= cap
}

/// Whoever has one IPv6 address has 2^64 of them, so these count as one.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl State {
    /// Forgets whom nothing is to be remembered of; `false`: that is nobody now.
    fn make_room(&mut self, rate: f64, now: Instant) -> bool {
        let most = self.connections + ADDRESSES;
        // All of them are looked at, so not for every connection of a flood.
        if self.addresses.len() < most || self.forgotten.is_none_or(|at| now >= at + FORGET) {
            self.addresses.retain(|_, of| {
                of.refill(rate, now);
                of.connections > 0 || of.tokens < rate
            });
            self.forgotten = Some(now);
        }
        self.forget_at = (2 * self.addresses.len()).min(most);
        self.addresses.len() < most
    }
}

impl Address {
    fn refill(&mut self, rate: f64, now: Instant) {
        let rest = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + rest * rate).min(rate);
        self.at = now;
    }
}

/// One connection that is in.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.connections = state.connections.saturating_sub(1);
        if let Some(of) = self.address.and_then(|address| state.addresses.get_mut(&address)) {
            of.connections = of.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps {
        connections: 5,
        connections_per_address: 3,
        handshakes: 0,
        handshakes_per_address: 0,
        rate: 4,
    };

    fn ip(n: u8) -> Option<IpAddr> {
        Some([10, 0, 0, n].into())
    }

    #[test]
    fn connections_in_all_and_per_address() {
        let gate = Gate::new(CAPS);
        let now = Instant::now();
        let mut passes: Vec<_> = (0..3).map(|_| gate.enter(ip(1), now).unwrap()).collect();
        assert_eq!(gate.enter(ip(1), now).unwrap_err(), Limit::ConnectionsPerAddress);
        passes.extend((0..2).map(|_| gate.enter(ip(2), now).unwrap()));
        assert_eq!(gate.enter(ip(3), now).unwrap_err(), Limit::Connections);
        assert_eq!(gate.enter(None, now).unwrap_err(), Limit::Connections);
        passes.remove(0);
        let later = now + Duration::from_secs(1);
        passes.push(gate.enter(ip(1), later).unwrap());
        passes.clear();
        assert_eq!(lock(&gate.state).connections, 0);
    }

    #[test]
    fn a_rate_per_address_that_recovers() {
        let gate = Gate::new(Caps { connections: 0, connections_per_address: 0, ..CAPS });
        let now = Instant::now();
        let enter = |n, at| gate.enter(ip(n), at).map(drop);
        for _ in 0..4 {
            enter(1, now).unwrap();
        }
        assert_eq!(enter(1, now), Err(Limit::HandshakeRate));
        assert_eq!(enter(2, now), Ok(()), "another address is not touched");
        let later = now + Duration::from_millis(500);
        assert_eq!((enter(1, later), enter(1, later)), (Ok(()), Ok(())));
        assert_eq!(enter(1, later), Err(Limit::HandshakeRate));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let gate = Gate::new(Caps { connections_per_address: 1, ..CAPS });
        let enter = |ip: &str| gate.enter(Some(ip.parse().unwrap()), Instant::now());
        let _one = enter("2001:db8::1").unwrap();
        assert_eq!(enter("2001:db8::2").unwrap_err(), Limit::ConnectionsPerAddress);
        enter("2001:db8:0:1::1").unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let gate = Gate::new(Caps::default());
        let now = Instant::now();
        let mut refused = 0;
        for n in 0..100_000u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            refused += usize::from(gate.enter(Some(ip), now).is_err());
        }
        assert!(refused > 0);
        assert!(lock(&gate.state).addresses.len() <= ADDRESSES + 64);
        gate.enter(ip(1), now + Duration::from_secs(2)).unwrap();
        let later = now + Duration::from_secs(4);
        for n in 0..200 {
            let _ = gate.enter(ip(n), later);
        }
        assert!(lock(&gate.state).addresses.len() < 1000);
    }
}
