//! `ripstop keys`: a CA in a directory, and what it issues.

pub(crate) mod args;
#[cfg(feature = "curve")]
mod curve;
mod show;
pub(crate) mod verify;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ripstop::{
    config::Config,
    security::{Ca, Record, State},
};
use serde_json::{Value, json};

use crate::{
    args::Common,
    exit::Failure,
    output::{Output, remark},
};
use args::{InitArgs, IssueArgs, KeysArgs, KeysCommand, ListArgs, RevokeArgs, RotateArgs};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn run(common: &Common, args: KeysArgs, mut out: Output) -> Result<(), Failure> {
    match args.command {
        KeysCommand::Init(args) => init(common, &args, &mut out)?,
        KeysCommand::Issue(args) => issue(&args, &mut out)?,
        KeysCommand::Show(args) => show::run(&args.path, &mut out)?,
        KeysCommand::Verify(args) => verify::run(&args.dir, &mut out)?,
        KeysCommand::Revoke(args) => revoke(&args, &mut out)?,
        KeysCommand::Rotate(args) => rotate(&args, &mut out)?,
        KeysCommand::List(args) => list(&args, &mut out)?,
    }
    out.flush()
}

fn init(common: &Common, args: &InitArgs, out: &mut Output) -> Result<(), Failure> {
    let fabric = match &common.fabric {
        Some(fabric) => fabric.clone(),
        None => Config::load(common.config.as_deref())?.config.fabric,
    };
    let ca = Ca::new(&fabric, SystemTime::now(), args.days)?;
    let dir = &args.ca.dir;
    ca.write(dir)?;
    if out.json {
        return out.value(&json!({"dir": dir, "fabric": fabric, "expires": rfc3339(ca.expires())}));
    }
    out.line(format!("CA of fabric {fabric} in {}, valid until {}", dir.display(), Date(ca.expires())))?;
    out.flush()?;
    remark(format!("{} is secret: whoever reads it can be any service", dir.join("ca.key").display()));
    remark(format!("next: ripstop keys issue SERVICE{}", in_dir(dir)));
    Ok(())
}

fn issue(args: &IssueArgs, out: &mut Output) -> Result<(), Failure> {
    #[cfg(feature = "curve")]
    if let Some(name) = &args.curve {
        return curve::issue(name, args, out);
    }
    let name = args.name.as_deref().unwrap_or_default();
    let dir = &args.ca.dir;
    let (mut ca, _lock) = open(dir)?;
    let to = args.out.clone().unwrap_or_else(|| dir.join(name));
    let there = ["node.key", "node.pem"].map(|name| to.join(name)).into_iter().find(|path| path.exists());
    if let Some(path) = there.filter(|_| !args.renew) {
        return Err(Failure::usage(format!(
            "{} is there already: write --renew to replace it, or --out DIR for another node",
            path.display()
        )));
    }
    if args.renew {
        same_service(&to, name)?;
    }
    let now = SystemTime::now();
    let wanted = now + DAY * args.days;
    let issued = ca.issue(name, now - Ca::SKEW, wanted)?;
    // The index first: a certificate that is nowhere listed could not be revoked.
    ca.write(dir)?;
    issued.write(&to)?;
    if issued.expires() + DAY < wanted {
        remark(format!("it ends with the CA: ripstop keys rotate{} makes a new one", in_dir(dir)));
    }
    if out.json {
        return out.value(&json!({
            "dir": to,
            "identity": issued.identity().to_string(),
            "serial": issued.serial(),
            "expires": rfc3339(issued.expires()),
        }));
    }
    out.line(format!("{} in {}, valid until {}", issued.identity(), to.display(), Date(issued.expires())))?;
    out.flush()?;
    if !args.renew {
        remark(format!(
            "next, in ripstop.toml of the node:\n  [security]\n  dir = {:?}",
            to.display().to_string()
        ));
    }
    Ok(())
}

/// A node that runs would not take another service's keys up, and its files would be gone.
fn same_service(dir: &Path, service: &str) -> Result<(), Failure> {
    let path = dir.join("node.pem");
    let Some(id) = path.exists().then(|| show::first_identity(&path)).transpose()?.flatten() else {
        return Ok(());
    };
    match id.rsplit_once('/') {
        Some((_, theirs)) if theirs != service => {
            Err(Failure::usage(format!("{} is for {id}: choose another --out for {service}", path.display())))
        }
        _ => Ok(()),
    }
}

fn revoke(args: &RevokeArgs, out: &mut Output) -> Result<(), Failure> {
    #[cfg(feature = "curve")]
    if let Some(name) = args.what.strip_prefix(curve::PREFIX) {
        return curve::revoke(name, args, out);
    }
    let (mut ca, _lock) = open(&args.ca.dir)?;
    let now = SystemTime::now();
    let chosen = choose(&ca, args, now)?;
    for serial in &chosen {
        ca.revoke(serial, now)?;
    }
    ca.write(&args.ca.dir)?;
    let (updated, all_updated) = update(&ca, &args.to);
    let revoked = ca.issued().iter().filter(|record| chosen.contains(&record.serial));
    if out.json {
        let revoked: Vec<_> = revoked.map(|record| describe(&ca, record, now)).collect();
        out.value(&json!({"revoked": revoked, "updated": updated}))?;
    } else {
        for record in revoked {
            out.line(format!("revoked {} of {}", record.serial, record.service))?;
        }
    }
    out.flush()?;
    updated.iter().for_each(|node| remark(format!("{}: up to date", node.display())));
    let list = args.ca.dir.join("crl.pem");
    remark(format!("nodes refuse it once they have {}: copy it into the directory of each", list.display()));
    all_updated
}

/// The serial numbers of what is meant.
fn choose(ca: &Ca, args: &RevokeArgs, now: SystemTime) -> Result<Vec<String>, Failure> {
    let what = args.what.as_str();
    let path = Path::new(what);
    if path.is_file() {
        let serial = show::first_serial(path)?;
        return known(ca, &serial).map(|serial| vec![serial]);
    }
    // As others print them: 4F:0C:… .
    let serial = what.replace(':', "").to_ascii_lowercase();
    if serial.len() == 32 && serial.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return known(ca, &serial).map(|serial| vec![serial]);
    }
    let of_service: Vec<_> = ca.issued().iter().filter(|record| record.service == what).collect();
    let alive = of_service.iter().filter(|r| matches!(r.state(now), State::Valid | State::NotYetValid));
    let alive: Vec<_> = alive.map(|record| record.serial.clone()).collect();
    match (of_service.is_empty(), alive.is_empty()) {
        (true, _) => Err(Failure::failed(format!(
            "{what} is no service that this CA has issued a certificate for, no serial number of 32 hex digits, and no \
             file: ripstop keys list shows what there is"
        ))),
        // Again, for nodes that the list has not reached.
        (false, true) if !args.to.is_empty() => Ok(of_service
            .iter()
            .filter(|r| r.revoked.is_some())
            .map(|record| record.serial.clone())
            .collect()),
        (false, true) => Err(Failure::failed(format!(
            "no certificate of {what} is valid any more: nothing to revoke; --to DIR brings a node up to date"
        ))),
        _ => Ok(alive),
    }
}

fn known(ca: &Ca, serial: &str) -> Result<String, Failure> {
    match ca.issued().iter().find(|record| record.serial == serial) {
        Some(record) => Ok(record.serial.clone()),
        None => Err(Failure::failed(format!(
            "this CA has issued no certificate {serial}: ripstop keys list shows what there is"
        ))),
    }
}

fn rotate(args: &RotateArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = &args.ca.dir;
    let (mut ca, _lock) = open(dir)?;
    let now = SystemTime::now();
    if args.finish {
        let left = ca.left_behind(now).join(", ");
        if !left.is_empty() && !args.force {
            return Err(Failure::failed(format!(
                "these have certificates of the old CA only, and would be shut out: {left}\n  \
                 first: ripstop keys issue SERVICE --renew{} for each; or write --force",
                in_dir(dir)
            )));
        }
        ca.finish_rotation(now)?;
    } else {
        ca.rotate(now, args.days)?;
    }
    ca.write(dir)?;
    let (updated, all_updated) = update(&ca, &args.to);
    if out.json {
        out.value(&json!({
            "dir": dir,
            "rotating": ca.is_rotating(),
            "expires": rfc3339(ca.expires()),
            "updated": updated,
            "left_behind": ca.left_behind(now),
        }))?;
    } else if args.finish {
        out.line(format!("the old CA is dropped from {}", dir.display()))?;
    } else {
        out.line(format!(
            "new CA beside the old one in {}, valid until {}",
            dir.display(),
            Date(ca.expires())
        ))?;
    }
    out.flush()?;
    updated.iter().for_each(|node| remark(format!("{}: up to date", node.display())));
    remark(format!("copy ca.pem and crl.pem from {} into the directory of each node", dir.display()));
    if !args.finish {
        remark(format!(
            "when all have them: ripstop keys issue SERVICE --renew{0} for each, then ripstop keys rotate --finish{0}",
            in_dir(dir)
        ));
    }
    all_updated
}

/// Hands the newest files to nodes on this machine: those that have them now, and the first failure. It stops at none.
fn update<'a>(ca: &Ca, nodes: &'a [PathBuf]) -> (Vec<&'a Path>, Result<(), Failure>) {
    let (mut updated, mut failed) = (Vec::new(), Ok(()));
    for node in nodes {
        match ca.update_node(node) {
            Ok(()) => updated.push(node.as_path()),
            Err(error) if failed.is_ok() => failed = Err(Failure::from(error)),
            Err(error) => remark(error),
        }
    }
    (updated, failed)
}

fn list(args: &ListArgs, out: &mut Output) -> Result<(), Failure> {
    let ca = Ca::open(&args.ca.dir)?;
    let now = SystemTime::now();
    #[cfg(feature = "curve")]
    let enrolled = curve::enrolled(&args.ca.dir)?;
    #[cfg(not(feature = "curve"))]
    let enrolled: Vec<(String, String)> = Vec::new();
    if out.json {
        let enrolled = enrolled.iter().map(|(name, key)| json!({"identity": name, "public_key": key}));
        return out.value(&json!({
            "fabric": ca.fabric(),
            "expires": rfc3339(ca.expires()),
            "rotating": ca.is_rotating(),
            "certificates": ca.issued().iter().map(|record| describe(&ca, record, now)).collect::<Vec<_>>(),
            "curve": enrolled.collect::<Vec<_>>(),
        }));
    }
    let row = |record: &Record| {
        let state = record.state(now).to_string();
        let state = if ca.is_current(record) { state } else { format!("{state}, old CA") };
        vec![record.service.clone(), state, Date(record.to).to_string(), record.serial.clone()]
    };
    let enrolled = enrolled.into_iter().map(|(name, key)| vec![name, "enrolled".into(), "-".into(), key]);
    let rows: Vec<_> = ca.issued().iter().map(row).chain(enrolled).collect();
    if rows.is_empty() {
        remark(format!("nothing issued yet: ripstop keys issue SERVICE{}", in_dir(&args.ca.dir)));
        return Ok(());
    }
    out.table(&["SERVICE", "STATE", "UNTIL", "SERIAL"], rows)
}

fn describe(ca: &Ca, record: &Record, now: SystemTime) -> Value {
    json!({
        "service": record.service,
        "serial": record.serial,
        "state": record.state(now).to_string(),
        "from": rfc3339(record.from),
        "expires": rfc3339(record.to),
        "revoked": record.revoked.map(rfc3339),
        "old_ca": !ca.is_current(record),
    })
}

/// The CA, and a lock: of two commands that change it, one waits for the other.
fn open(dir: &Path) -> Result<(Ca, Option<std::fs::File>), Failure> {
    // Where a directory can't be opened or locked there is no lock.
    let lock = std::fs::File::open(dir).ok();
    let lock = lock.filter(|file| file.lock().is_ok());
    Ok((Ca::open(dir)?, lock))
}

/// ` --dir DIR`, unless that is the default.
fn in_dir(dir: &Path) -> String {
    if dir == Path::new("keys") { String::new() } else { format!(" --dir {}", dir.display()) }
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `2026-03-01 12:00 UTC`.
pub(crate) struct Date(pub(crate) SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = rfc3339(self.0);
        let minutes = text.get(..16).unwrap_or(&text);
        write!(f, "{} UTC", minutes.replace('T', " "))
    }
}
