//! CURVE keys: for those who speak ZeroMQ and no TLS.

use std::path::{Path, PathBuf};

use ripstop::{
    security::{CurveNames, Identity, SecurityError, make_curve_key, read_curve_key},
    zmtp::curve::PublicKey,
};
use serde_json::{Map, Value, json};

use super::args::{IssueArgs, RevokeArgs};
use crate::{
    exit::Failure,
    output::{Output, remark},
};

pub(super) const KEY: &str = "curve.key";
pub(super) const NAMES: &str = "curve.toml";
/// Before a name where it could be taken for a service.
pub(super) const PREFIX: &str = "curve:";

/// `ripstop keys issue --curve NAME`.
pub(super) fn issue(name: &str, args: &IssueArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = &args.ca.dir;
    let (_ca, _lock) = super::open(dir)?;
    // A wrong name, or a wrong directory, is told before there is any file.
    Identity::curve(name).map_err(SecurityError::from)?;
    args.to.iter().try_for_each(|node| is_node(node))?;
    let to = args.out.clone().unwrap_or_else(|| dir.join("curve").join(name));
    let path = to.join(KEY);
    if to.join("node.key").exists() {
        return Err(Failure::usage(format!(
            "{} is the directory of a node, whose own key {KEY} would be: choose another --out",
            to.display()
        )));
    }
    let mut names = CurveNames::open(&dir.join(NAMES))?;
    let known = names.key_of(name).is_some();
    if !args.renew && (known || path.exists()) {
        let what =
            if known { format!("curve:{name} is enrolled") } else { format!("{} is there", path.display()) };
        return Err(Failure::usage(format!(
            "{what} already: write --renew to replace it, or choose another name"
        )));
    }
    let keys = make_curve_key(&path)?;
    let public = keys.public();
    names.enrol(name, public)?;
    names.write(&dir.join(NAMES))?;
    let mut servers = Vec::new();
    for node in &args.to {
        servers.push((node, enrol(node, name, public)?));
    }
    if out.json {
        let servers: Map<String, Value> =
            servers.iter().map(|(node, key)| (node.display().to_string(), json!(key.to_string()))).collect();
        return out.value(&json!({
            "dir": to,
            "identity": format!("{PREFIX}{name}"),
            "public_key": public.to_string(),
            "server_keys": servers,
        }));
    }
    out.line(format!("{PREFIX}{name} in {}, public key {public}", path.display()))?;
    for (node, key) in &servers {
        out.line(format!("server key of {}: {key}", node.display()))?;
    }
    out.flush()?;
    if servers.is_empty() {
        let names = dir.join(NAMES);
        remark(format!("nodes let it in once they have {}: --to DIR of each, or copy it", names.display()));
    } else {
        remark(format!("next: give {} and the server key to the client", path.display()));
    }
    Ok(())
}

/// Enrols a client at a node, which gets a key of its own if it has none; gives the public half.
fn enrol(node: &Path, name: &str, public: PublicKey) -> Result<PublicKey, Failure> {
    is_node(node)?;
    let key = node.join(KEY);
    let own = match read_curve_key(&key)? {
        Some(keys) => keys,
        None => make_curve_key(&key)?,
    };
    let mut names = CurveNames::open(&node.join(NAMES))?;
    names.enrol(name, public)?;
    names.write(&node.join(NAMES))?;
    Ok(own.public())
}

fn is_node(dir: &Path) -> Result<(), Failure> {
    if dir.join("node.pem").exists() {
        return Ok(());
    }
    Err(Failure::usage(format!("{} has no node.pem, so it is not the directory of a node", dir.display())))
}

/// `ripstop keys revoke curve:NAME`.
pub(super) fn revoke(name: &str, args: &RevokeArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = &args.ca.dir;
    let (_ca, _lock) = super::open(dir)?;
    let mut names = CurveNames::open(&dir.join(NAMES))?;
    let known = names.remove(name);
    if !known && args.to.is_empty() {
        let path = dir.join(NAMES);
        return Err(Failure::failed(format!(
            "{} has no {name}: ripstop keys list shows who is in it",
            path.display()
        )));
    }
    names.write(&dir.join(NAMES))?;
    let (mut failed, mut found) = (Ok(()), known);
    let mut updated: Vec<&PathBuf> = Vec::new();
    for node in &args.to {
        match forget(node, name) {
            Ok(there) => {
                found |= there;
                updated.push(node);
            }
            Err(error) if failed.is_ok() => failed = Err(error),
            Err(error) => remark(error),
        }
    }
    if !found {
        failed?;
        return Err(Failure::failed(format!("nobody has {name} enrolled: ripstop keys list shows who is")));
    }
    if out.json {
        out.value(&json!({"revoked": [{"identity": format!("{PREFIX}{name}")}], "updated": updated}))?;
    } else {
        out.line(format!("revoked {PREFIX}{name}"))?;
    }
    out.flush()?;
    updated.iter().for_each(|node| remark(format!("{}: up to date", node.display())));
    remark(format!("nodes refuse it once {name} is not in their {NAMES} any more"));
    failed
}

/// Whether it was enrolled there.
fn forget(node: &Path, name: &str) -> Result<bool, Failure> {
    is_node(node)?;
    let mut names = CurveNames::open(&node.join(NAMES))?;
    let there = names.remove(name);
    if there {
        names.write(&node.join(NAMES))?;
    }
    Ok(there)
}

/// Who is enrolled, by name.
pub(super) fn enrolled(dir: &Path) -> Result<Vec<(String, String)>, Failure> {
    let names = CurveNames::open(&dir.join(NAMES))?;
    let mut list: Vec<_> =
        names.iter().map(|(name, key)| (format!("{PREFIX}{name}"), key.to_string())).collect();
    list.sort_unstable();
    Ok(list)
}

/// What the CURVE files of a node say, if it has any: its server key, and how many are enrolled.
pub(super) fn check(dir: &Path) -> Result<Option<(String, usize)>, SecurityError> {
    let names = CurveNames::open(&dir.join(NAMES))?.iter().count();
    Ok(read_curve_key(&dir.join(KEY))?.map(|keys| (keys.public().to_string(), names)))
}
