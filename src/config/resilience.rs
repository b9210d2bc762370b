//! `[resilience]`: what keeps one service's trouble its own, for all services that are called and for single ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, values};

/// `[resilience]`: retries, bulkheads and the leaving out of failing instances. Read again as the file changes.
///
/// ```
/// assert_eq!(ripstop::config::ResilienceConfig::default().attempts, 4);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResilienceConfig {
    /// Attempts of one call in all, where trying again is safe. Default: 4. 1: none is repeated.
    pub attempts: u32,
    /// How long one attempt of an idempotent method is waited for, where another instance could be asked. Default: none, half
    /// of what the deadline leaves.
    #[serde(with = "values::some_duration")]
    pub attempt_time: Option<Duration>,
    /// The pause before a second attempt is anything up to this; the ceiling doubles with each. Default: 25 ms.
    #[serde(with = "values::duration")]
    pub backoff_min: Duration,
    /// The highest ceiling. Default: 1 s.
    #[serde(with = "values::duration")]
    pub backoff_max: Duration,
    /// How much retries may add to the requests to one service, in percent. Default: 20.
    pub retry_percent: u32,
    /// And how many a second beside that. Default: 10.
    pub retry_per_second: u32,
    /// Calls to one service that wait for one of `limits.in_flight` places. Default: 4,096; one more fails at once.
    pub waiting: usize,
    /// Whether instances that fail where others do not are left out. Default: true.
    pub eject: bool,
    /// After so many failures in a row. Default: 5. More than half of at least 20 within 10 s do it, too.
    pub eject_after: u32,
    /// For so long at first; each time it is twice as long. Default: 5 s.
    #[serde(with = "values::duration")]
    pub eject_min: Duration,
    /// For so long at most. Default: 1 min.
    #[serde(with = "values::duration")]
    pub eject_max: Duration,
    /// In this time a new instance comes to its full share of the calls. Default: 10 s.
    #[serde(with = "values::duration")]
    pub slow_start: Duration,
    /// Requests a second that one caller may make of this node, and as many at once after a second's rest. Default: 0, any
    /// number.
    pub caller_rate: u32,
    /// What is different for single services. Default: none.
    pub services: Vec<ServiceConfig>,
}

impl Default for ResilienceConfig {
    fn default() -> Self {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        Self {
            attempts: 4,
            attempt_time: None,
            backoff_min: ms(25),
            backoff_max: s(1),
            retry_percent: 20,
            retry_per_second: 10,
            waiting: 4096,
            eject: true,
            eject_after: 5,
            eject_min: s(5),
            eject_max: s(60),
            slow_start: s(10),
            caller_rate: 0,
            services: Vec::new(),
        }
    }
}

/// One of `[[resilience.services]]`: what is different for calls to this service. What is left out is as for all.
///
/// ```
/// use ripstop::config::ServiceConfig;
/// let pricing = ServiceConfig { attempts: Some(2), ..ServiceConfig::new("pricing") };
/// assert_eq!(pricing.in_flight, None);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// The service that is called.
    pub name: String,
    /// How long a call may take in all. Default: `timeouts.call`.
    #[serde(with = "values::some_duration")]
    pub deadline: Option<Duration>,
    /// See [`ResilienceConfig::attempts`].
    pub attempts: Option<u32>,
    /// See [`ResilienceConfig::attempt_time`].
    #[serde(with = "values::some_duration")]
    pub attempt_time: Option<Duration>,
    /// See [`ResilienceConfig::retry_percent`].
    pub retry_percent: Option<u32>,
    /// See [`ResilienceConfig::retry_per_second`].
    pub retry_per_second: Option<u32>,
    /// Calls under way to it at once. Default: `limits.in_flight`.
    pub in_flight: Option<usize>,
    /// See [`ResilienceConfig::waiting`].
    pub waiting: Option<usize>,
    /// See [`ResilienceConfig::eject`].
    pub eject: Option<bool>,
}

impl ServiceConfig {
    /// A service for which nothing is different yet.
    ///
    /// ```
    /// assert_eq!(ripstop::config::ServiceConfig::new("pricing").name, "pricing");
    /// ```
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// What holds for calls to one service, however it came to hold.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct InForce {
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
    pub(crate) attempt_time: Option<Duration>,
    pub(crate) retry_percent: u32,
    pub(crate) retry_per_second: u32,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) eject: bool,
}

impl InForce {
    /// For a service that may have a section of its own.
    pub(crate) fn of(config: &Config, own: Option<&ServiceConfig>) -> Self {
        let all = &config.resilience;
        let none = ServiceConfig::default();
        let own = own.unwrap_or(&none);
        Self {
            deadline: own.deadline.unwrap_or(config.timeouts.call),
            attempts: own.attempts.unwrap_or(all.attempts),
            attempt_time: own.attempt_time.or(all.attempt_time),
            retry_percent: own.retry_percent.unwrap_or(all.retry_percent),
            retry_per_second: own.retry_per_second.unwrap_or(all.retry_per_second),
            in_flight: own.in_flight.unwrap_or(config.limits.in_flight),
            waiting: own.waiting.unwrap_or(all.waiting),
            eject: own.eject.unwrap_or(all.eject),
        }
    }
}

/// Checks it all: the key that is wrong, and what is wrong with it.
pub(super) fn check(config: &Config) -> Result<(), (String, String)> {
    let all = &config.resilience;
    let wrong = |key: &str, reason: &str| Err((format!("resilience.{key}"), reason.to_owned()));
    if all.backoff_max < all.backoff_min {
        return wrong("backoff_max", "write at least as much as backoff_min");
    }
    if all.eject_after == 0 {
        return wrong("eject_after", "write at least 1; eject = false leaves nobody out");
    }
    if all.eject_min.is_zero() {
        return wrong("eject_min", "write at least \"1ms\"; eject = false leaves nobody out");
    }
    if all.eject_max < all.eject_min {
        return wrong("eject_max", "write at least as much as eject_min");
    }
    fits(config, &InForce::of(config, None), "resilience")?;
    for (index, own) in all.services.iter().enumerate() {
        let at = format!("resilience.services.{index}");
        super::load::token(&own.name).map_err(|reason| (format!("{at}.name"), reason))?;
        if all.services.iter().take(index).any(|other| other.name == own.name) {
            return Err((format!("{at}.name"), format!("there is a section for {} already", own.name)));
        }
        fits(config, &InForce::of(config, Some(own)), &at)?;
    }
    Ok(())
}

fn fits(config: &Config, it: &InForce, at: &str) -> Result<(), (String, String)> {
    let wrong = |key: &str, reason: String| Err((format!("{at}.{key}"), reason));
    let time = humantime::format_duration;
    if it.attempts == 0 {
        return wrong("attempts", "write at least 1, which is no retry".into());
    }
    if it.in_flight == 0 {
        return wrong("in_flight", "0 lets nothing through: write at least 1".into());
    }
    if it.deadline < Duration::from_millis(1) {
        return wrong("deadline", "write at least \"1ms\"".into());
    }
    if it.attempts == 1 {
        return Ok(());
    }
    if let Some(attempt) = it.attempt_time.filter(|attempt| *attempt >= it.deadline) {
        let reason = format!(
            "no retry fits: one attempt takes up to {}, and the deadline is {}; write less, a longer deadline, or attempts = 1",
            time(attempt),
            time(it.deadline),
        );
        return wrong("attempt_time", reason);
    }
    if let Some(attempt) = it.attempt_time.filter(Duration::is_zero) {
        return wrong("attempt_time", format!("{} is no time: write at least \"1ms\"", time(attempt)));
    }
    let pause = config.resilience.backoff_min;
    // A short deadline alone is no mistake: the default pause is anything down to nothing.
    if pause >= it.deadline && pause > ResilienceConfig::default().backoff_min {
        let reason = format!(
            "no retry fits: the pause before it is up to {}, and the deadline is {}; write a longer deadline, a shorter \
             resilience.backoff_min, or attempts = 1",
            time(pause),
            time(it.deadline),
        );
        return wrong("attempts", reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_retry_that_cannot_fit_is_an_error() {
        let said = error("[timeouts]\ncall = '2s'\n[resilience]\nattempt_time = '5s'");
        assert_eq!(
            said,
            "ripstop.toml:4:16: no retry fits: one attempt takes up to 5s, and the deadline is 2s; write less, a longer deadline, \
             or attempts = 1"
        );
        let said = error("[[resilience.services]]\nname = 'a'\ndeadline = '1s'\nattempt_time = '1s'");
        assert!(said.starts_with("ripstop.toml:4:16: no retry fits"), "{said}");
        let said = error(
            "[resilience]\nbackoff_min = '800ms'\n[[resilience.services]]\nname = 'a'\ndeadline = '500ms'\nattempts = 2",
        );
        assert!(said.starts_with("ripstop.toml:6:12: no retry fits"), "{said}");
        Config::parse("[timeouts]\ncall = '10ms'").unwrap();
        Config::parse("[timeouts]\ncall = '2s'\n[resilience]\nattempts = 1\nattempt_time = '5s'").unwrap();
    }

    #[test]
    fn a_section_changes_what_it_names() {
        let config =
            Config::parse("[resilience]\nattempts = 3\n[[resilience.services]]\nname = 'a'\nin_flight = 8")
                .unwrap();
        let own = InForce::of(&config, config.resilience.services.first());
        assert_eq!((own.attempts, own.in_flight, own.waiting), (3, 8, 4096));
        assert_eq!(InForce::of(&config, None).in_flight, 256);
        let twice = error("[[resilience.services]]\nname = 'a'\n[[resilience.services]]\nname = 'a'");
        assert_eq!(twice, "ripstop.toml:4:8: there is a section for a already");
    }
}
