//! `ripstop keys verify`: what a node would find on its start, and the others when it comes.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use ripstop::{
    config::SecurityConfig,
    security::{Keys, SecurityError},
};
use serde_json::json;

use super::{DAY, Date, rfc3339};
use crate::{
    exit::{Exit, Failure},
    output::{Output, remark},
};

/// From this long before the end on there is a warning.
const SOON: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn run(dir: &Path, out: &mut Output) -> Result<(), Failure> {
    let now = SystemTime::now();
    let config = SecurityConfig { dir: Some(dir.to_owned()), ..SecurityConfig::default() };
    let wrong = |error: SecurityError| Failure::coded(Exit::Failed, error.code(), error);
    let keys = Keys::load(&config, Path::new("")).map_err(wrong)?;
    if let Err(refusal) = keys.check_own(now) {
        let what = format!("{}: the others would refuse this node: {refusal}", dir.display());
        return Err(Failure::coded(Exit::Failed, refusal.code(), what));
    }
    #[cfg(feature = "curve")]
    let curve = super::curve::check(dir).map_err(wrong)?;
    #[cfg(not(feature = "curve"))]
    let curve: Option<(String, usize)> = None;
    let warnings = warnings(&keys, dir, now);
    let expires = keys.expires();
    let days = expires.duration_since(now).map_or(0, |left| left.as_secs() / DAY.as_secs());
    if out.json {
        out.value(&json!({
            "dir": dir,
            "identity": keys.identity().to_string(),
            "expires": rfc3339(expires),
            "days_left": days,
            "curve_server_key": curve.as_ref().map(|(key, _)| key),
            "warnings": warnings,
        }))?;
    } else {
        let identity = keys.identity();
        out.line(format!(
            "{}: ok, {identity}, valid until {}, {days} days more",
            dir.display(),
            Date(expires)
        ))?;
        if let Some((key, enrolled)) = curve {
            out.line(format!("  CURVE: server key {key}, {enrolled} enrolled"))?;
        }
    }
    out.flush()?;
    warnings.iter().for_each(|warning| remark(format!("warning: {warning}")));
    Ok(())
}

pub(crate) fn warnings(keys: &Keys, dir: &Path, now: SystemTime) -> Vec<String> {
    let mut warnings = Vec::new();
    if keys.expires() < now + SOON {
        let service = keys.identity().name();
        warnings.push(format!(
            "the certificate expires within 7 days, on {}: ripstop keys issue {service} --renew --out {}",
            Date(keys.expires()),
            dir.display()
        ));
    }
    if !dir.join("crl.pem").exists() {
        warnings.push(format!("{} has no crl.pem, so nobody counts as revoked here", dir.display()));
    }
    if dir.join("ca.key").exists() {
        warnings.push(format!(
            "{} is here too: whoever breaks into this node can be any service; move it away",
            dir.join("ca.key").display()
        ));
    }
    warnings
}
