//! Whether a failed attempt is followed by another, after what pause, and on whom. Time and chance are passed in.
//!
//! ```text
//! what failed                          whether, and whom                          pause           budget
//! no handler was reached               another instance                           none            free
//! full, or the handler says so         another instance, else the same again      jitter, pushback  paid
//!   the same, under a key              the same instance only: it remembers       jitter, pushback  paid
//! lost or late, method is idempotent   another instance, else the same again      jitter          paid
//! lost or late, under a key            the same instance only: it remembers       jitter          paid
//! anything else                        nobody
//! ```

use std::time::Duration;

use crate::{envelope::Verdict, fabric::error::CallError};

/// What an attempt failed of, as far as retries are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No handler was reached, and nothing was taxed by the attempt: there was no connection, or the instance is leaving,
    /// does not have the method, or may not serve it.
    Unreached,
    /// It was not acted on, and the serving side says so; not before this.
    Refused { elsewhere: bool, after: Duration },
    /// Nobody knows whether a handler acted.
    InDoubt,
    /// It is answered, or would fail again.
    Final,
}

impl Failure {
    pub(crate) fn of(error: &CallError) -> Self {
        match error {
            CallError::NoInstance { .. } | CallError::NoSuchMethod { .. } | CallError::Forbidden { .. } => {
                Self::Unreached
            }
            CallError::Full { retry_after, .. } => {
                Self::Refused { elsewhere: false, after: retry_after.unwrap_or_default() }
            }
            CallError::Handler { retry: Some(verdict), retry_after, .. } if *verdict != Verdict::Never => {
                let elsewhere = *verdict == Verdict::Elsewhere;
                Self::Refused { elsewhere, after: retry_after.unwrap_or_default() }
            }
            CallError::Lost { .. } | CallError::Deadline { .. } => Self::InDoubt,
            _ => Self::Final,
        }
    }
}

/// What makes it safe to ask again although a handler may have acted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Safe {
    /// Nothing does.
    No,
    /// The serving instance remembers what it has done under the key.
    There,
    /// The method is idempotent.
    Anywhere,
}

/// The next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Next {
    pub(crate) pause: Duration,
    pub(crate) whom: Whom,
    /// Whether it has to be paid for from the budget.
    pub(crate) paid: bool,
}

/// Whom the next attempt goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whom {
    /// Instances that were not tried yet, and no others.
    Others,
    /// Those that were not tried yet, or if there is none anybody again.
    OthersFirst,
    /// The same instance.
    Same,
}

/// Pauses between attempts: full jitter below a ceiling that doubles from the first to the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// Before attempt number `attempt` + 1; `chance` is from 0 to 1.
    fn pause(self, attempt: u32, chance: f64) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1).min(20));
        self.min.saturating_mul(doubled).min(self.max).mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// What follows on a failed attempt; `None`: nothing, the call has failed. `attempt` counts from 1; `left` is what the
/// deadline leaves.
pub(crate) fn next(
    failure: Failure,
    safe: Safe,
    attempt: u32,
    attempts: u32,
    backoff: Backoff,
    left: Duration,
    chance: f64,
) -> Option<Next> {
    if attempt >= attempts {
        return None;
    }
    let jitter = backoff.pause(attempt, chance);
    let next = match failure {
        Failure::Final => return None,
        Failure::Unreached => Next { pause: Duration::ZERO, whom: Whom::Others, paid: false },
        // The others do not know what was done under the key before.
        Failure::Refused { after, .. } if safe == Safe::There => {
            Next { pause: after.saturating_add(jitter), whom: Whom::Same, paid: true }
        }
        Failure::Refused { elsewhere: true, after } => {
            Next { pause: after, whom: Whom::OthersFirst, paid: true }
        }
        // Pushed back together, they must not come back together.
        Failure::Refused { elsewhere: false, after } => {
            Next { pause: after.saturating_add(jitter), whom: Whom::OthersFirst, paid: true }
        }
        Failure::InDoubt => {
            let whom = match safe {
                Safe::No => return None,
                Safe::There => Whom::Same,
                Safe::Anywhere => Whom::OthersFirst,
            };
            Next { pause: jitter, whom, paid: true }
        }
    };
    // What cannot be done in time is not begun, so that the caller has the reason and not only a passed deadline.
    (next.pause < left).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BACKOFF: Backoff = Backoff { min: Duration::from_millis(25), max: Duration::from_secs(1) };
    const LONG: Duration = Duration::from_secs(10);

    fn after(failure: Failure, safe: Safe) -> Option<Next> {
        next(failure, safe, 1, 4, BACKOFF, LONG, 1.0)
    }

    #[test]
    fn whom_and_for_what() {
        let next = after(Failure::Unreached, Safe::No).unwrap();
        assert_eq!(next, Next { pause: Duration::ZERO, whom: Whom::Others, paid: false });
        let full = Failure::Refused { elsewhere: false, after: Duration::ZERO };
        let next = after(full, Safe::No).unwrap();
        assert_eq!(next, Next { pause: 25 * MS, whom: Whom::OthersFirst, paid: true });
        assert_eq!(after(full, Safe::There).unwrap().whom, Whom::Same);
        assert_eq!(after(Failure::InDoubt, Safe::No), None, "it may have acted");
        assert_eq!(after(Failure::InDoubt, Safe::There).unwrap().whom, Whom::Same);
        assert_eq!(after(Failure::InDoubt, Safe::Anywhere).unwrap().whom, Whom::OthersFirst);
        assert_eq!(after(Failure::Final, Safe::Anywhere), None);
    }

    #[test]
    fn pauses_grow_to_a_second_and_are_anything_below() {
        let ceilings: Vec<_> = (1..9).map(|attempt| BACKOFF.pause(attempt, 1.0)).collect();
        assert_eq!(ceilings, [25, 50, 100, 200, 400, 800, 1000, 1000].map(|ms| ms * MS));
        assert_eq!(BACKOFF.pause(u32::MAX, 0.5), 500 * MS);
        assert_eq!(BACKOFF.pause(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_pushback_is_obeyed_or_the_call_ends() {
        let busy = Failure::Refused { elsewhere: false, after: 300 * MS };
        assert_eq!(after(busy, Safe::No).unwrap().pause, 325 * MS);
        assert_eq!(next(busy, Safe::No, 1, 4, BACKOFF, 320 * MS, 1.0), None);
        assert_eq!(next(busy, Safe::No, 1, 4, BACKOFF, 320 * MS, 0.0).unwrap().pause, 300 * MS);
    }

    #[test]
    fn attempts_end() {
        assert!(next(Failure::Unreached, Safe::No, 3, 4, BACKOFF, LONG, 0.0).is_some());
        assert!(next(Failure::Unreached, Safe::No, 4, 4, BACKOFF, LONG, 0.0).is_none());
    }

    #[test]
    fn a_handler_says_itself_whether_it_acted() {
        let handler = |retry, retry_after| {
            let (subject, message) = ("a.b".into(), "busy".into());
            Failure::of(&CallError::Handler {
                subject,
                message,
                code: None,
                chain: Vec::new(),
                retry,
                retry_after,
            })
        };
        assert_eq!(handler(None, None), Failure::Final);
        assert_eq!(handler(Some(Verdict::Never), Some(MS)), Failure::Final);
        let later = Failure::Refused { elsewhere: false, after: MS };
        assert_eq!(handler(Some(Verdict::Later), Some(MS)), later);
        let elsewhere = Failure::Refused { elsewhere: true, after: Duration::ZERO };
        assert_eq!(handler(Some(Verdict::Elsewhere), None), elsewhere);
    }
}
