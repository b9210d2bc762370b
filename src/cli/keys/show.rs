//! `ripstop keys show`: what is in key files, and never a private key.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use x509_parser::{
    pem::Pem,
    prelude::{CertificateRevocationList, FromDer, GeneralName, ParsedExtension, X509Certificate},
    time::ASN1Time,
};

use super::{Date, rfc3339};
use crate::{exit::Failure, output::Output};

/// What is looked at in a directory.
const NAMES: [&str; 8] =
    ["node.pem", "node.key", "ca.pem", "ca.key", "ca.old.key", "crl.pem", "curve.key", "curve.toml"];
/// No key file is longer.
const LONGEST: u64 = 64 << 20;

/// What is known of one block of a file, in the order in which it is printed.
struct Item {
    what: &'static str,
    fields: Vec<(&'static str, Value)>,
}

pub(super) fn run(path: &Path, out: &mut Output) -> Result<(), Failure> {
    let files: Vec<PathBuf> = if path.is_dir() {
        NAMES.map(|name| path.join(name)).into_iter().filter(|file| file.exists()).collect()
    } else {
        vec![path.to_owned()]
    };
    if files.is_empty() {
        return Err(Failure::failed(format!("{} has none of {}", path.display(), NAMES.join(", "))));
    }
    let mut first = true;
    for file in files {
        for item in items(&file)? {
            print(&file, &item, std::mem::take(&mut first), out)?;
        }
    }
    Ok(())
}

fn print(file: &Path, item: &Item, first: bool, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        let mut value = Map::new();
        value.insert("file".into(), json!(file));
        value.insert("type".into(), item.what.into());
        value.extend(item.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        return out.value(&value);
    }
    if !first {
        out.line("")?;
    }
    out.line(format!("{}: {}", file.display(), item.what.replace('_', " ")))?;
    for (name, value) in &item.fields {
        let text = match value {
            Value::String(text) => date(text).unwrap_or_else(|| text.clone()),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Value::Bool(true) => "yes".into(),
            Value::Bool(false) => "no".into(),
            other => other.to_string(),
        };
        if text.is_empty() {
            continue;
        }
        out.line(format!("  {:<9}  {text}", name.replace('_', " ")))?;
    }
    Ok(())
}

/// What people read for a time.
fn date(text: &str) -> Option<String> {
    humantime::parse_rfc3339(text).ok().map(|time| Date(time).to_string())
}

/// The serial number of the first certificate of a file, in hex.
pub(super) fn first_serial(path: &Path) -> Result<String, Failure> {
    first(path, |certificate| hex(certificate.raw_serial()))
}

/// The first URI that the first certificate of a file names.
pub(super) fn first_identity(path: &Path) -> Result<Option<String>, Failure> {
    first(path, |certificate| uris(certificate).into_iter().next())
}

fn first<T>(path: &Path, of: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, Failure> {
    match blocks(path)?.iter().find(|block| block.label == "CERTIFICATE") {
        Some(block) => {
            let parsed = X509Certificate::from_der(&block.contents);
            parsed.map(|(_, certificate)| of(&certificate)).map_err(|error| broken(path, &error))
        }
        None => Err(Failure::failed(format!("{} has no certificate", path.display()))),
    }
}

fn blocks(path: &Path) -> Result<Vec<Pem>, Failure> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    let blocks: Result<Vec<_>, _> = Pem::iter_from_buffer(&bytes).collect();
    let blocks = blocks.map_err(|error| broken(path, &error))?;
    if blocks.is_empty() {
        return Err(Failure::failed(format!(
            "{} is no key file: it should have PEM blocks, such as -----BEGIN CERTIFICATE-----",
            path.display()
        )));
    }
    Ok(blocks)
}

fn items(path: &Path) -> Result<Vec<Item>, Failure> {
    let name = path.file_name().unwrap_or_default();
    if name == "curve.key" || name == "curve.toml" {
        return curve_item(path).map(|item| vec![item]);
    }
    blocks(path)?.iter().map(|block| item(path, block)).collect()
}

fn item(path: &Path, block: &Pem) -> Result<Item, Failure> {
    match block.label.as_str() {
        "CERTIFICATE" => {
            let (_, certificate) =
                X509Certificate::from_der(&block.contents).map_err(|e| broken(path, &e))?;
            Ok(certificate_item(&certificate))
        }
        "X509 CRL" => {
            let (_, list) =
                CertificateRevocationList::from_der(&block.contents).map_err(|e| broken(path, &e))?;
            Ok(list_item(&list))
        }
        label if label.ends_with("PRIVATE KEY") => Ok(Item { what: "private_key", fields: private(path) }),
        other => Err(Failure::failed(format!("{} has a block {other}, which no node reads", path.display()))),
    }
}

fn certificate_item(certificate: &X509Certificate<'_>) -> Item {
    let validity = certificate.validity();
    let (from, to) = (time(validity.not_before), time(validity.not_after));
    let now = SystemTime::now();
    let state = match (now < from, now > to) {
        (true, _) => "not yet valid",
        (_, true) => "expired",
        _ => "in its time",
    };
    let fields = vec![
        ("identity", json!(uris(certificate))),
        ("subject", certificate.subject().to_string().into()),
        ("issuer", certificate.issuer().to_string().into()),
        ("serial", hex(certificate.raw_serial()).into()),
        ("from", rfc3339(from).into()),
        ("expires", rfc3339(to).into()),
        ("state", state.into()),
    ];
    Item { what: if certificate.is_ca() { "ca_certificate" } else { "certificate" }, fields }
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(uri).collect(),
        _ => Vec::new(),
    }
}

fn list_item(list: &CertificateRevocationList<'_>) -> Item {
    let revoked: Vec<_> = list.iter_revoked_certificates().map(|one| hex(one.raw_serial())).collect();
    let number = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLNumber(number) => Some(number.to_string()),
        _ => None,
    });
    let fields = vec![
        ("issuer", list.issuer().to_string().into()),
        ("number", number.unwrap_or_else(|| "none".into()).into()),
        ("from", rfc3339(time(list.last_update())).into()),
        ("revoked", if revoked.is_empty() { "none".into() } else { json!(revoked) }),
    ];
    Item { what: "revocation_list", fields }
}

#[cfg(feature = "curve")]
fn curve_item(path: &Path) -> Result<Item, Failure> {
    use ripstop::security::{CurveNames, read_curve_key};
    if path.extension().is_some_and(|extension| extension == "toml") {
        let names = CurveNames::open(path)?;
        let mut list: Vec<_> = names.iter().map(|(name, key)| format!("{name} {key}")).collect();
        list.sort_unstable();
        return Ok(Item { what: "CURVE_names", fields: vec![("enrolled", json!(list))] });
    }
    let keys = read_curve_key(path)?;
    let keys = keys.ok_or_else(|| Failure::failed(format!("{} does not exist", path.display())))?;
    let mut fields = private(path);
    fields.push(("public", keys.public().to_string().into()));
    Ok(Item { what: "CURVE_secret_key", fields })
}

#[cfg(not(feature = "curve"))]
fn curve_item(path: &Path) -> Result<Item, Failure> {
    Err(Failure::failed(format!("{}: this program was built without the feature curve", path.display())))
}

/// Not a word of the key itself.
fn private(path: &Path) -> Vec<(&'static str, Value)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
        vec![("mode", format!("{mode:04o}").into()), ("private", (mode & 0o077 == 0).into())]
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Vec::new()
    }
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: this can't be read: {error}", path.display()))
}

fn time(time: ASN1Time) -> SystemTime {
    /// What can be printed ends with the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0).min(LAST);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
