//! Reading the file and the environment, and saying what is wrong with them and where.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::config as layers;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Limits, Loaded, PeerConfig, listen};
use crate::endpoint::Endpoint;
use crate::envelope::{Pattern, group_queue};

const PREFIX: &str = "RIPSTOP_";
/// Variables that begin like keys but are read elsewhere.
const NOT_KEYS: [&str; 3] = ["RIPSTOP_CONFIG", "RIPSTOP_LOG", "RIPSTOP_RUNTIME_DIR"];
/// The file that is read from the working directory.
const FILE: &str = "ripstop.toml";
/// The longest name, and the longest metadata key or value, in bytes.
const MAX_TEXT: usize = 255;
/// What our own nodes need for their handshake, with names of any length.
const MIN_HANDSHAKE: usize = 2048;

pub(super) fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let (path, text) = match path {
        Some(path) => (Some(path.to_path_buf()), read(path)?),
        None if Path::new(FILE).exists() => (Some(PathBuf::from(FILE)), read(Path::new(FILE))?),
        None => (None, String::new()),
    };
    let variables = variables(environment)?;
    let shown = path.as_deref().unwrap_or(Path::new(FILE));
    // Alone first, so that what is wrong in the file is reported with its line and column.
    deserialize(&text, shown)?;
    let config = layer(&text, &variables).map_err(|error| blame(&text, &variables, &error))?;
    check(&config, |key| match variables.keys().find(|name| key_of(name) == key) {
        Some(name) => name.clone(),
        None => locate(&text, shown, key),
    })?;
    let mut from_environment: Vec<_> = variables.into_keys().collect();
    from_environment.sort();
    let places = places(&text, shown);
    Ok(Loaded { config, path, from_environment, places })
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let config = deserialize(text, path)?;
    check(&config, |key| locate(text, path, key))?;
    Ok(config)
}

/// The `[[peers]]` of a file. The rest of it has to be right too: a file half understood is not understood.
pub(crate) fn peers(text: &str, path: &Path) -> Result<Vec<PeerConfig>, ConfigError> {
    parse(text, path).map(|config| config.peers)
}

/// The name most like `given`, if it is like enough to be meant.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (given.chars().count() / 3).max(1);
    names
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Checks what types alone don't. `place` says where a key was set.
pub(super) fn check(config: &Config, place: impl Fn(&str) -> String) -> Result<(), ConfigError> {
    let wrong = |key: &str, reason: String| ConfigError::Value { place: place(key), reason };
    name(&config.fabric).map_err(|reason| wrong("fabric", reason))?;
    if let Some(service) = &config.service {
        token(service).map_err(|reason| wrong("service", reason))?;
    }
    if config.version.len() > MAX_TEXT {
        return Err(wrong("version", format!("at most {MAX_TEXT} bytes")));
    }
    if config.metadata.len() > 64 {
        return Err(wrong("metadata", format!("{} entries, and 64 are the most", config.metadata.len())));
    }
    for (key, value) in &config.metadata {
        if key.len() > MAX_TEXT || value.len() > MAX_TEXT {
            return Err(wrong(
                &format!("metadata.{key}"),
                format!("at most {MAX_TEXT} bytes for a key or a value"),
            ));
        }
    }
    for (index, entry) in config.listen.iter().enumerate() {
        listen::parse(entry).map_err(|reason| wrong(&format!("listen.{index}"), reason))?;
    }
    for (index, endpoint) in config.advertise.iter().enumerate() {
        dialable(endpoint).map_err(|reason| wrong(&format!("advertise.{index}"), reason))?;
    }
    for (index, peer) in config.peers.iter().enumerate() {
        token(&peer.service).map_err(|reason| wrong(&format!("peers.{index}.service"), reason))?;
        dialable(&peer.endpoint).map_err(|reason| wrong(&format!("peers.{index}.endpoint"), reason))?;
        for (n, root) in peer.roots.iter().enumerate() {
            token(root).map_err(|reason| wrong(&format!("peers.{index}.roots.{n}"), reason))?;
        }
    }
    super::rule::check(&config.allow).map_err(|(key, reason)| wrong(&key, reason))?;
    let limits = &config.limits;
    for (key, value) in [
        ("max_message", limits.max_message),
        ("queue_messages", limits.queue_messages),
        ("queue_bytes", limits.queue_bytes),
        ("connections", limits.connections),
        ("connections_per_address", limits.connections_per_address),
        ("handshakes", limits.handshakes),
        ("handshakes_per_address", limits.handshakes_per_address),
        ("handshake_rate", limits.handshake_rate as usize),
        ("frames", limits.frames),
        ("subscriptions", limits.subscriptions),
        ("subscription_length", limits.subscription_length),
        ("subscription_bytes", limits.subscription_bytes),
        ("depth", limits.depth),
        ("elements", limits.elements),
        ("in_flight", limits.in_flight),
    ] {
        if value == 0 {
            return Err(wrong(&format!("limits.{key}"), "0 lets nothing through: write at least 1".into()));
        }
    }
    let deepest = Limits::default().depth;
    if limits.depth > deepest {
        return Err(wrong("limits.depth", format!("nobody sends deeper: write at most {deepest}")));
    }
    if limits.handshake_bytes < MIN_HANDSHAKE {
        let reason = format!("no handshake fits: write at least {MIN_HANDSHAKE}");
        return Err(wrong("limits.handshake_bytes", reason));
    }
    if limits.peer_memory < limits.max_message {
        let reason = "one message would not fit: write at least as much as max_message, and better the sum of \
                      max_message, twice queue_bytes and subscription_bytes";
        return Err(wrong("limits.peer_memory", reason.into()));
    }
    let durable = &config.durable;
    for (key, value) in [
        ("messages", durable.messages),
        ("attempts", durable.attempts.into()),
        ("losses", durable.losses.into()),
        ("dedup", durable.dedup),
    ] {
        if value == 0 {
            return Err(wrong(&format!("durable.{key}"), "write at least 1".into()));
        }
    }
    if durable.retry_max < durable.retry_min {
        return Err(wrong("durable.retry_max", "write at least as much as retry_min".into()));
    }
    if durable.lease < Duration::from_secs(1) {
        return Err(wrong("durable.lease", "write at least \"1s\"".into()));
    }
    for (index, pinned) in durable.pinned.iter().enumerate() {
        Pattern::parse(pinned)
            .map_err(|error| wrong(&format!("durable.pinned.{index}"), error.to_string()))?;
    }
    for (index, group) in config.durable.groups.iter().enumerate() {
        token(&group.name).map_err(|reason| wrong(&format!("durable.groups.{index}.name"), reason))?;
        Pattern::parse(&group.pattern)
            .map_err(|error| error.to_string())
            .and_then(|pattern| group_queue(&group.name, &pattern).map(drop))
            .map_err(|reason| wrong(&format!("durable.groups.{index}.pattern"), reason))?;
    }
    config.observe.address().map_err(|reason| wrong("observe.listen", reason))?;
    super::resilience::check(config).map_err(|(key, reason)| wrong(&key, reason))?;
    let timeouts = &config.timeouts;
    for (key, value) in [
        ("call", timeouts.call),
        ("handshake", timeouts.handshake),
        ("heartbeat", timeouts.heartbeat),
        ("reconnect_min", timeouts.reconnect_min),
    ] {
        if value < Duration::from_millis(1) {
            return Err(wrong(&format!("timeouts.{key}"), "write at least \"1ms\"".into()));
        }
    }
    if timeouts.dead_after <= timeouts.heartbeat {
        let heartbeat = humantime::format_duration(timeouts.heartbeat);
        let reason =
            format!("a peer would be dead before it is asked: write more than the heartbeat's {heartbeat}");
        return Err(wrong("timeouts.dead_after", reason));
    }
    if timeouts.reconnect_max < timeouts.reconnect_min {
        return Err(wrong("timeouts.reconnect_max", "write at least as much as reconnect_min".into()));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { place: path.display().to_string(), reason: error.to_string() })
}

fn name(text: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '\\';
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(bad) || text.starts_with('.') {
        return Err(format!("`{text}` is no name: write 1 to {MAX_TEXT} bytes without spaces or slashes"));
    }
    Ok(())
}

/// A service is the first token of its subjects, so it is written like one.
pub(super) fn token(text: &str) -> Result<(), String> {
    name(text)?;
    if text.contains(['.', '*', '>']) || text.starts_with(['$', '@']) {
        return Err(format!(
            "`{text}` can't be the first token of a subject: no dot, `*` or `>`, and no `$` or `@` in front"
        ));
    }
    Ok(())
}

fn dialable(endpoint: &Endpoint) -> Result<(), String> {
    match endpoint.host_and_port() {
        Some(("*" | "0.0.0.0" | "::", _)) => {
            Err(format!("{endpoint} can't be dialled: write the address that others use"))
        }
        Some((_, 0)) => Err(format!("{endpoint} can't be dialled: write the port")),
        _ => Ok(()),
    }
}

/// Our variables, by name in capitals.
fn variables(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, ConfigError> {
    let mut variables = HashMap::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().map(str::to_ascii_uppercase) else { continue };
        if !name.starts_with(PREFIX) || NOT_KEYS.contains(&name.as_str()) {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(ConfigError::Value { place: name, reason: "its value is not UTF-8".into() });
        };
        variables.insert(name, value);
    }
    Ok(variables)
}

/// `RIPSTOP_LIMITS__MAX_MESSAGE` sets `limits.max_message`.
pub(super) fn key_of(variable: &str) -> String {
    variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase().replace("__", ".")
}

fn layer(text: &str, variables: &HashMap<String, String>) -> Result<Config, layers::ConfigError> {
    layers::Config::builder()
        .add_source(layers::File::from_str(text, layers::FileFormat::Toml))
        .add_source(
            layers::Environment::with_prefix("RIPSTOP")
                .prefix_separator("_")
                .separator("__")
                .source(Some(variables.clone())),
        )
        .build()?
        .try_deserialize()
}

/// The file is right alone, so a variable is at fault: the one that is wrong alone.
fn blame(text: &str, variables: &HashMap<String, String>, error: &layers::ConfigError) -> ConfigError {
    let mut names: Vec<_> = variables.keys().collect();
    names.sort();
    for name in names {
        let alone = HashMap::from([(name.clone(), variables[name].clone())]);
        if let Err(error) = layer(text, &alone) {
            let key = key_of(name);
            let message = error.to_string();
            let message = message.split(&format!(" for key `{key}`")).next().unwrap_or(&message);
            let reason = match unknown_key(message) {
                Some((unknown, known)) => {
                    // A variable's name says the whole path, so the suggestion does too.
                    let before = name.len() - unknown.len().min(name.len());
                    let whole = |key: &str| format!("{}{}", &name[..before], key.to_ascii_uppercase());
                    match nearest(&unknown, known.iter().map(String::as_str)) {
                        Some(near) => format!("there is no such key: did you mean {}?", whole(near)),
                        None => format!("there is no such key; the keys here are {}", known.join(", ")),
                    }
                }
                None => message.to_owned(),
            };
            return ConfigError::Value { place: name.clone(), reason };
        }
    }
    ConfigError::Value { place: "the environment".into(), reason: error.to_string() }
}

fn deserialize(text: &str, path: &Path) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let reason = match unknown_key(error.message()) {
            Some((unknown, known)) => match nearest(&unknown, known.iter().map(String::as_str)) {
                Some(near) => format!("unknown key `{unknown}`: did you mean `{near}`?"),
                None => format!("unknown key `{unknown}`; the keys here are {}", known.join(", ")),
            },
            None => error.message().to_owned(),
        };
        ConfigError::Value { place: at(path, text, error.span()), reason }
    })
}

/// Serde says ``unknown field `a`, expected one of `b`, `c` ``: the unknown one, and the known ones.
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`');
    let unknown = quoted.next()?.to_owned();
    let known = quoted.skip(1).step_by(2).map(str::to_owned).collect();
    Some((unknown, known))
}

/// `ripstop.toml:3:8`, or only the file where there is no span.
fn at(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start.min(text.len()))) else {
        return path.display().to_string();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", path.display())
}

/// Where a key such as `peers.0.endpoint` is set; the nearest table or list that is there, if it is not.
fn locate(text: &str, path: &Path, key: &str) -> String {
    let Ok(root) = DeTable::parse(text) else { return path.display().to_string() };
    let mut table = Some(root.get_ref());
    let mut value: Option<&toml::Spanned<DeValue<'_>>> = None;
    for part in key.split('.') {
        let next = match (table.take(), value.map(|value| value.get_ref())) {
            (Some(table), _) => table.get(part),
            (None, Some(DeValue::Array(list))) => part.parse().ok().and_then(|index: usize| list.get(index)),
            (None, Some(DeValue::Table(table))) => table.get(part),
            _ => None,
        };
        let Some(next) = next else { break };
        value = Some(next);
    }
    match value {
        Some(value) => at(path, text, Some(value.span())),
        None => format!("{}: {key}", path.display()),
    }
}

/// Where each key of the file is set, those of lists by their index.
fn places(text: &str, path: &Path) -> BTreeMap<String, String> {
    fn walk(
        value: &toml::Spanned<DeValue<'_>>,
        key: &str,
        at: &dyn Fn(Range<usize>) -> String,
        into: &mut BTreeMap<String, String>,
    ) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (name, value) in table.iter() {
                    walk(value, &format!("{key}.{}", name.get_ref()), at, into);
                }
            }
            DeValue::Array(list) if list.iter().any(|one| one.get_ref().is_table()) => {
                for (index, value) in list.iter().enumerate() {
                    walk(value, &format!("{key}.{index}"), at, into);
                }
            }
            _ => drop(into.insert(key.to_owned(), at(value.span()))),
        }
    }
    let mut places = BTreeMap::new();
    let Ok(root) = DeTable::parse(text) else { return places };
    for (name, value) in root.get_ref().iter() {
        walk(value, name.get_ref(), &|span| at(path, text, Some(span)), &mut places);
    }
    places
}

#[cfg(test)]
mod tests;
