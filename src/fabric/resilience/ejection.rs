//! Instances that fail where others do not are left out for a while.
//!
//! ```text
//!        5 failures in a row, or half of at least 20 within 10 s, and others do better
//!  in ───────────────────────────────────────────────────────────────────▶ out, 5 s, then twice as long each time, 60 s at most
//!   ▲                                                                        │
//!   └── success, slow start ── half open: one call every few seconds ◀── time is up ── failure ──▶ out again
//! ```
//!
//! At most half of a service's instances are out, and never the last one. Time is passed in.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::sync::lock;

/// The window, in slots of a second.
const WINDOW: u64 = 10;
/// So many within the window before a share of them says anything.
const LEAST: u64 = 20;

/// When an instance is left out, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// Failures in a row.
    pub(crate) after: u32,
    /// The first time, and the longest.
    pub(crate) out: (Duration, Duration),
}

/// What came of the calls of the last 10 s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) fn add(self, other: Self) -> Self {
        Self { ok: self.ok + other.ok, failed: self.failed + other.failed }
    }

    fn all(self) -> u64 {
        self.ok + self.failed
    }
}

/// What a failure means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sign {
    /// Nothing yet.
    None,
    /// It should go if the others allow it: see [`may_leave`].
    Suspect(Suspicion),
    /// The probe failed: it is out again, for so long.
    StillBad(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suspicion {
    /// It fails now, whatever it did before.
    InARow,
    /// It fails this often.
    Share(Tally),
}

/// Where an instance stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    In,
    Out,
    /// One call may find out whether it is well again.
    HalfOpen,
}

/// What is known of one instance's failures.
pub(crate) struct Health {
    born: Instant,
    /// A slot each second: its number, the failures and the successes, in 28, 18 and 18 bits.
    window: [AtomicU64; WINDOW as usize],
    in_a_row: AtomicU32,
    /// Looked at for every call; the rest only where it is set.
    out: AtomicBool,
    spell: Mutex<Spell>,
}

#[derive(Default)]
struct Spell {
    /// Out until then, and half open from then on.
    until: Option<Instant>,
    /// The next probe, not before this.
    probe: Option<Instant>,
    /// How often it was out without having been well in between for as long as the longest time out.
    count: u32,
    back: Option<Instant>,
    gauge: Option<metrics::Gauge>,
}

impl Spell {
    /// For how long, this time.
    fn begin(&mut self, rule: Rule, now: Instant) -> Duration {
        if self.back.is_some_and(|back| now.saturating_duration_since(back) > rule.out.1) {
            self.count = 0;
        }
        let time = rule.out.0.saturating_mul(1 << self.count.min(16)).min(rule.out.1);
        self.count = self.count.saturating_add(1);
        (self.until, self.probe) = (Some(now + time), None);
        time
    }

    fn end(&mut self) {
        (self.until, self.probe) = (None, None);
        if let Some(gauge) = self.gauge.take() {
            gauge.decrement(1);
        }
    }
}

const BITS: u32 = 18;
const FULL: u64 = (1 << BITS) - 1;

impl Health {
    pub(crate) fn new(born: Instant) -> Self {
        Self {
            born,
            window: Default::default(),
            in_a_row: AtomicU32::new(0),
            out: AtomicBool::new(false),
            spell: Mutex::default(),
        }
    }

    /// A call was answered. `true`: it was out, and is back.
    pub(crate) fn succeeded(&self, now: Instant) -> bool {
        self.count(now, 1);
        // Mostly it is 0 already: other processors may keep their copy.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        if !self.is_out() {
            return false;
        }
        let mut spell = lock(&self.spell);
        // What was under way when it went out says nothing about now.
        if spell.until.is_none_or(|until| now < until) {
            return false;
        }
        spell.end();
        spell.back = Some(now);
        self.forget();
        true
    }

    /// A call failed, or took too long.
    pub(crate) fn failed(&self, rule: Rule, now: Instant) -> Sign {
        self.count(now, 1 << BITS);
        if self.is_out() {
            let mut spell = lock(&self.spell);
            return match spell.until {
                Some(until) if now >= until => Sign::StillBad(spell.begin(rule, now)),
                _ => Sign::None,
            };
        }
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if in_a_row >= rule.after {
            return Sign::Suspect(Suspicion::InARow);
        }
        let tally = self.tally(now);
        if tally.all() >= LEAST && tally.failed * 2 > tally.all() {
            return Sign::Suspect(Suspicion::Share(tally));
        }
        Sign::None
    }

    /// Leaves it out. `None`: it is out already.
    pub(crate) fn eject(&self, rule: Rule, now: Instant, gauge: metrics::Gauge) -> Option<Duration> {
        let mut spell = lock(&self.spell);
        if spell.until.is_some() {
            return None;
        }
        let time = spell.begin(rule, now);
        gauge.increment(1);
        spell.gauge = Some(gauge);
        self.out.store(true, Ordering::Release);
        Some(time)
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if !self.is_out() {
            return Standing::In;
        }
        let spell = lock(&self.spell);
        match (spell.until, spell.probe) {
            (None, _) => Standing::In,
            (Some(until), _) if now < until => Standing::Out,
            (_, Some(probe)) if now < probe => Standing::Out,
            _ => Standing::HalfOpen,
        }
    }

    /// Takes the one call that may find out whether it is well again.
    pub(crate) fn probe(&self, rule: Rule, now: Instant) -> bool {
        let mut spell = lock(&self.spell);
        let due =
            spell.until.is_some_and(|until| now >= until) && spell.probe.is_none_or(|probe| now >= probe);
        if due {
            // Should nothing be heard of it, another one may try.
            spell.probe = Some(now + rule.out.0);
        }
        due
    }

    pub(crate) fn tally(&self, now: Instant) -> Tally {
        let second = self.second(now);
        let mut tally = Tally::default();
        for slot in &self.window {
            let slot = slot.load(Ordering::Relaxed);
            if second.saturating_sub(slot >> (2 * BITS)) < WINDOW {
                tally = tally.add(Tally { ok: slot & FULL, failed: (slot >> BITS) & FULL });
            }
        }
        tally
    }

    /// It was started anew: nothing that is known of its predecessor counts.
    pub(crate) fn reset(&self) {
        let mut spell = lock(&self.spell);
        spell.end();
        *spell = Spell::default();
        self.forget();
    }

    fn forget(&self) {
        self.window.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
        self.in_a_row.store(0, Ordering::Relaxed);
        self.out.store(false, Ordering::Release);
    }

    /// Counted from 1, so that an empty slot is of no second.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() + WINDOW
    }

    fn count(&self, now: Instant, what: u64) {
        let second = self.second(now);
        let slot = &self.window[(second % WINDOW) as usize];
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let old = if old >> (2 * BITS) == second { old } else { second << (2 * BITS) };
            // A quarter of a million a second is as good as more.
            let full = (old & FULL) == FULL || ((old >> BITS) & FULL) == FULL;
            (!full).then_some(old + what)
        });
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        lock(&self.spell).end();
    }
}

/// Whether an instance under suspicion may be left out: no more than half of `all` are out then, and the `others` do
/// better, so that it is the instance, and not the service or what is asked of it.
pub(crate) fn may_leave(suspicion: Suspicion, others: Tally, out: usize, all: usize) -> bool {
    if (out + 1) * 2 > all {
        return false;
    }
    match suspicion {
        Suspicion::InARow => others.failed * 2 <= others.all(),
        Suspicion::Share(own) => others.failed * 2 * own.all() <= own.failed * others.all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const RULE: Rule = Rule { after: 5, out: (Duration::from_secs(5), Duration::from_secs(60)) };

    fn eject(health: &Health, now: Instant) -> Option<Duration> {
        health.eject(RULE, now, metrics::Gauge::noop())
    }

    #[test]
    fn five_in_a_row() {
        let now = Instant::now();
        let health = Health::new(now);
        for _ in 0..4 {
            assert_eq!(health.failed(RULE, now), Sign::None);
        }
        assert_eq!(health.failed(RULE, now), Sign::Suspect(Suspicion::InARow));
        assert!(!health.succeeded(now));
        assert_eq!(health.failed(RULE, now), Sign::None);
    }

    #[test]
    fn more_than_half_of_twenty_within_ten_seconds() {
        let now = Instant::now();
        let health = Health::new(now);
        for n in 0..18 {
            health.succeeded(now + S * n / 4);
            assert_eq!(health.failed(RULE, now + S * n / 4), Sign::None, "{n}");
        }
        assert_eq!(health.tally(now + 5 * S), Tally { ok: 18, failed: 18 });
        let sign = health.failed(RULE, now + 5 * S);
        assert_eq!(sign, Sign::Suspect(Suspicion::Share(Tally { ok: 18, failed: 19 })));
        // They leave the window one by one.
        assert_eq!(health.tally(now + 13 * S), Tally { ok: 2, failed: 3 });
        assert_eq!(health.tally(now + 15 * S), Tally::default());
        assert_eq!(health.failed(RULE, now + 30 * S), Sign::None);
        assert_eq!(health.tally(now + 30 * S), Tally { ok: 0, failed: 1 });
    }

    #[test]
    fn out_half_open_and_back() {
        let now = Instant::now();
        let health = Health::new(now);
        assert_eq!(eject(&health, now), Some(5 * S));
        assert_eq!(eject(&health, now), None);
        assert_eq!(health.standing(now + 4 * S), Standing::Out);
        assert!(!health.probe(RULE, now + 4 * S));
        // What was begun before does not count.
        assert!(!health.succeeded(now + 4 * S));
        assert_eq!(health.failed(RULE, now + 4 * S), Sign::None);
        let half = now + 5 * S;
        assert_eq!(health.standing(half), Standing::HalfOpen);
        assert!(health.probe(RULE, half));
        assert!(!health.probe(RULE, half), "one call at a time");
        assert_eq!(health.standing(half), Standing::Out);
        assert!(health.probe(RULE, half + 5 * S), "nothing was heard of the first");
        assert!(health.succeeded(half + 5 * S));
        assert_eq!(health.standing(half + 5 * S), Standing::In);
        assert_eq!(health.tally(half + 5 * S), Tally::default());
    }

    #[test]
    fn longer_each_time_until_it_has_been_well() {
        let mut now = Instant::now();
        let health = Health::new(now);
        assert_eq!(eject(&health, now), Some(5 * S));
        for time in [10, 20, 40, 60, 60] {
            now += 60 * S;
            assert!(health.probe(RULE, now));
            assert_eq!(health.failed(RULE, now), Sign::StillBad(time * S));
        }
        now += 60 * S;
        assert!(health.succeeded(now));
        assert_eq!(eject(&health, now + 30 * S), Some(60 * S));
        now += 90 * S;
        assert!(health.succeeded(now));
        assert_eq!(eject(&health, now + 61 * S), Some(5 * S));
    }

    #[test]
    fn a_successor_starts_clean() {
        let now = Instant::now();
        let health = Health::new(now);
        assert_eq!((0..5).filter(|_| health.failed(RULE, now) != Sign::None).count(), 1);
        eject(&health, now);
        health.reset();
        assert_eq!(health.standing(now), Standing::In);
        assert_eq!(health.failed(RULE, now), Sign::None);
        assert_eq!(eject(&health, now), Some(5 * S));
    }

    #[test]
    fn at_most_half_and_never_the_last() {
        let fine = Tally { ok: 100, failed: 0 };
        let may = |out, all| may_leave(Suspicion::InARow, fine, out, all);
        assert!(!may(0, 1));
        assert!(may(0, 2) && !may(1, 2));
        assert!(may(0, 3) && !may(1, 3));
        assert!(may(1, 4) && !may(2, 4));
    }

    #[test]
    fn only_where_the_others_do_better() {
        let own = Suspicion::Share(Tally { ok: 20, failed: 80 });
        assert!(may_leave(own, Tally { ok: 70, failed: 30 }, 0, 2));
        assert!(!may_leave(own, Tally { ok: 20, failed: 80 }, 0, 2), "it is what is asked, not whom");
        assert!(!may_leave(Suspicion::InARow, Tally { ok: 10, failed: 90 }, 0, 2));
        assert!(may_leave(own, Tally::default(), 0, 2), "nothing is known against the other one");
    }
}
