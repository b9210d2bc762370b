//! What holds for calls to one subject, and where each value came from.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Config, Loaded, load, resilience::InForce};

/// Where a value came from.
///
/// ```
/// assert_eq!(ripstop::config::Origin::Default.to_string(), "default");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// The file: its name, line and column.
    File(String),
    /// This variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) | Self::Environment(place) => f.write_str(place),
        }
    }
}

/// One value in force: see [`Loaded::explain`].
///
/// ```
/// # fn f(loaded: ripstop::config::Loaded) {
/// for setting in loaded.explain("pricing.quote") {
///     println!("{} {} ({})", setting.layer, setting.value, setting.origin);
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The layer that it is of, in the order in which a call meets them: `deadline`, `bulkhead`, `retry`, `budget`, `balance`,
    /// `ejection`, `link`.
    pub layer: &'static str,
    /// The value, in words.
    pub value: String,
    /// The key that sets it.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
}

impl Loaded {
    /// Where the value of a key such as `limits.in_flight` came from.
    ///
    /// ```no_run
    /// # use ripstop::config::{Config, Origin};
    /// assert_eq!(Config::load(None)?.origin("timeouts.call"), Origin::Default);
    /// # Ok::<(), ripstop::config::ConfigError>(())
    /// ```
    pub fn origin(&self, key: &str) -> Origin {
        if let Some(variable) = self.from_environment.iter().find(|name| load::key_of(name) == key) {
            return Origin::Environment(variable.clone());
        }
        self.places.get(key).cloned().map_or(Origin::Default, Origin::File)
    }

    /// What holds for calls to this subject, in the order in which a call meets it.
    ///
    /// ```no_run
    /// let settings = ripstop::config::Config::load(None)?.explain("pricing.quote");
    /// assert_eq!(settings[0].layer, "deadline");
    /// # Ok::<(), ripstop::config::ConfigError>(())
    /// ```
    pub fn explain(&self, subject: &str) -> Vec<Setting> {
        let service = subject.split('.').next().unwrap_or(subject);
        let Config { resilience: all, timeouts, .. } = &self.config;
        let section = all.services.iter().position(|own| own.name == service);
        let own = section.and_then(|index| all.services.get(index));
        let it = InForce::of(&self.config, own);
        let setting = |layer, key: &str, value: String| {
            // A section of its own counts before what holds for all.
            let last = key.rsplit('.').next().unwrap_or(key);
            let last = if key == "timeouts.call" { "deadline" } else { last };
            let its = section.map(|index| format!("resilience.services.{index}.{last}"));
            let place = its.and_then(|its| self.places.get(&its)).cloned();
            let (key, origin) = match place {
                Some(place) => (format!("resilience.services.{last}"), Origin::File(place)),
                None => (key.to_owned(), self.origin(key)),
            };
            Setting { layer, value, key, origin }
        };
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let attempt = it.attempt_time.map_or("half of what is left".to_owned(), time);
        let eject = if it.eject { "of instances that fail where others do not" } else { "off" };
        vec![
            setting("deadline", "timeouts.call", time(it.deadline)),
            setting("bulkhead", "limits.in_flight", format!("{} in flight", it.in_flight)),
            setting("bulkhead", "resilience.waiting", format!("{} waiting", it.waiting)),
            setting("retry", "resilience.attempts", format!("{} attempts", it.attempts)),
            setting("retry", "resilience.attempt_time", format!("{attempt} for each, if idempotent")),
            setting("retry", "resilience.backoff_min", format!("pauses up to {}", time(all.backoff_min))),
            setting("retry", "resilience.backoff_max", format!("doubling to {}", time(all.backoff_max))),
            setting("budget", "resilience.retry_percent", format!("{} % of the requests", it.retry_percent)),
            setting("budget", "resilience.retry_per_second", format!("and {} a second", it.retry_per_second)),
            setting("balance", "resilience.slow_start", format!("full share after {}", time(all.slow_start))),
            setting("ejection", "resilience.eject", eject.into()),
            setting("ejection", "resilience.eject_after", format!("{} failures in a row", all.eject_after)),
            setting("ejection", "resilience.eject_min", format!("out for {}", time(all.eject_min))),
            setting("ejection", "resilience.eject_max", format!("doubling to {}", time(all.eject_max))),
            setting(
                "link",
                "timeouts.dead_after",
                format!("dead after {} of silence", time(timeouts.dead_after)),
            ),
            setting(
                "link",
                "timeouts.reconnect_max",
                format!("redialled within {}", time(timeouts.reconnect_max)),
            ),
        ]
    }
}
