//! What is answered to `$node.info`, `$node.stats`, `$node.health` and `$node.config`. Who may ask, permissions say: everybody in a fabric
//! without keys; with keys every member asks for the health, and for the rest admins.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    fabric::{Context, HandlerError, calls::server::offer_own, shared::Shared, wire::own},
    observe::{NodeInfo, NodeStats},
    sync::{lock, read},
};

/// Those who ask at once.
const AT_ONCE: usize = 4;

/// Answers from now on.
pub(crate) fn offer(shared: &Shared) {
    macro_rules! answers {
        ($($subject:expr => $answer:expr;)*) => {$(
            offer_own(shared, $subject, AT_ONCE, |(), context: Context| async move {
                Ok::<_, HandlerError>($answer(context.shared()).await)
            });
        )*};
    }
    answers! {
        own::INFO => async |shared: &Arc<Shared>| shared.info();
        own::STATS => async |shared: &Arc<Shared>| shared.stats().await;
        own::HEALTH => async |shared: &Arc<Shared>| shared.health();
        own::CONFIG => async |shared: &Arc<Shared>| shared.settings();
    }
}

impl Shared {
    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo {
            node: self.id.to_string(),
            epoch: self.epoch,
            fabric: self.fabric.clone(),
            service: self.service.clone(),
            version: self.version.clone(),
            ripstop: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.uptime(),
            endpoints: lock(&self.endpoints).iter().map(ToString::to_string).collect(),
            methods: self.methods.subjects(),
            topics: self.topics.subjects(),
            queues: self.pulls.queues(),
            metadata: self.metadata.clone(),
        }
    }

    /// What was counted.
    pub(crate) async fn stats(&self) -> NodeStats {
        let now = Instant::now();
        let mut stats = NodeStats {
            node: self.id.to_string(),
            service: self.service.clone(),
            uptime_ms: self.uptime(),
            links: self.link_stats(),
            ..NodeStats::default()
        };
        self.counted.report(now, &mut stats);
        stats.pulled = Self::received(self.pulls.inboxes(), now);
        stats.subscribed = Self::received(self.subscriptions.inboxes(), now);
        #[cfg(feature = "durable")]
        {
            stats.store = self.kept().await;
        }
        let waiting: BTreeMap<_, _> = self.methods.waiting().into_iter().collect();
        for method in &mut stats.served {
            method.waiting = waiting.get(&method.name).copied().unwrap_or(0);
        }
        stats
    }

    /// The configuration in force, a key each, as the file would have it. There are no secrets in it: keys are files.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        if let Ok(value) = toml::Value::try_from(&*read(&self.config)) {
            flatten("", &value, &mut flat);
        }
        flat
    }
}

fn flatten(path: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&within(key), value, into)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(n, item)| flatten(&within(&n.to_string()), item, into));
        }
        leaf => drop(into.insert(path.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn settings_are_written_as_in_the_file() {
        let config = Config::parse(
            "listen = ['lan']\n[limits]\nmax_message = '1MiB'\n[[peers]]\nservice = 'a'\nendpoint = 'tcp://10.0.0.7:1'",
        );
        let mut flat = BTreeMap::new();
        flatten("", &toml::Value::try_from(config.unwrap()).unwrap(), &mut flat);
        for (key, value) in [
            ("fabric", "\"default\""),
            ("listen", "[\"lan\"]"),
            ("limits.max_message", "1048576"),
            ("timeouts.call", "\"10s\""),
            ("peers.0.endpoint", "\"tcp://10.0.0.7:1\""),
        ] {
            assert_eq!(flat.get(key).map(String::as_str), Some(value), "{key} in {flat:?}");
        }
    }
}
