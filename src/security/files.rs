//! Key files, from the disk to what rustls takes.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::SecurityError;
use crate::config::SecurityConfig;

/// No key file is longer: a revocation list of 100,000 certificates has about 4 MB.
const LONGEST: u64 = 16 << 20;

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) crl: Optional,
    #[cfg_attr(not(feature = "curve"), allow(dead_code))]
    pub(super) curve_key: Optional,
    #[cfg_attr(not(feature = "curve"), allow(dead_code))]
    pub(super) curve_names: Optional,
}

/// A file that need not be there, unless it was named.
#[derive(Clone, Debug)]
pub(super) struct Optional {
    pub(super) path: Option<PathBuf>,
    pub(super) named: bool,
}

impl Places {
    pub(super) fn new(config: &SecurityConfig, base: &Path) -> Result<Self, SecurityError> {
        let dir = config.dir.as_ref().map(|dir| base.join(dir));
        let of = |named: &Option<PathBuf>, usual: &str| match named {
            Some(path) => Some(base.join(path)),
            None => dir.as_ref().map(|dir| dir.join(usual)),
        };
        let needed = |named, usual, what| {
            of(named, usual).ok_or_else(|| SecurityError::Setup {
                reason: format!("{what} is missing: write security.{what}, or security.dir for all of them"),
            })
        };
        let optional =
            |named: &Option<PathBuf>, usual| Optional { path: of(named, usual), named: named.is_some() };
        Ok(Self {
            ca: needed(&config.ca, "ca.pem", "ca")?,
            cert: needed(&config.cert, "node.pem", "cert")?,
            key: needed(&config.key, "node.key", "key")?,
            crl: optional(&config.crl, "crl.pem"),
            curve_key: optional(&config.curve_key, "curve.key"),
            curve_names: optional(&config.curve_names, "curve.toml"),
        })
    }

    /// Where the revocation lists are.
    pub(super) fn crl(&self) -> &Path {
        self.crl.path.as_deref().unwrap_or(Path::new("crl.pem"))
    }

    /// All that can be there.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        let optional = [&self.crl, &self.curve_key, &self.curve_names];
        let needed = [&self.ca, &self.cert, &self.key].map(PathBuf::as_path);
        needed.into_iter().chain(optional.into_iter().filter_map(|file| file.path.as_deref()))
    }
}

impl Optional {
    /// `None`: it is not there, and need not be.
    #[cfg(feature = "curve")]
    pub(super) fn there(&self) -> Result<Option<&Path>, SecurityError> {
        Ok(self.read()?.map(|(path, _)| path))
    }

    /// `None`: it is not there, and need not be.
    pub(super) fn read(&self) -> Result<Option<(&Path, Vec<u8>)>, SecurityError> {
        let Some(path) = self.path.as_deref() else { return Ok(None) };
        match read(path) {
            Err(SecurityError::Io { error, .. })
                if !self.named && error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            read => read.map(|bytes| Some((path, bytes))),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> SecurityError {
    |error| SecurityError::Io { action: "read", path: path.to_owned(), error }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, SecurityError> {
    open(path).and_then(|file| take(file, path))
}

/// Reads a file that only its owner may.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
    let file = open(path)?;
    // Of the open file: nobody can put another one in its place meanwhile.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed(path))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecurityError::NotPrivate { path: path.to_owned(), mode });
        }
    }
    take(file, path).map(Zeroizing::new)
}

fn open(path: &Path) -> Result<fs::File, SecurityError> {
    fs::File::open(path).map_err(failed(path))
}

fn take(file: fs::File, path: &Path) -> Result<Vec<u8>, SecurityError> {
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed(path))?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong(path, format!("is longer than {LONGEST} bytes: no key file is")));
    }
    Ok(bytes)
}

pub(super) fn wrong(path: &Path, reason: impl Into<String>) -> SecurityError {
    SecurityError::Material { path: path.to_owned(), reason: reason.into() }
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let found: Vec<_> = parse(path, &read(path)?)?;
    match found.is_empty() {
        true => Err(wrong(
            path,
            "has no certificate: it should have PEM blocks that begin with -----BEGIN CERTIFICATE-----",
        )),
        false => Ok(found),
    }
}

pub(super) fn revocation_lists(
    file: &Optional,
) -> Result<Vec<CertificateRevocationListDer<'static>>, SecurityError> {
    match file.read()? {
        Some((path, bytes)) => match parse(path, &bytes)? {
            // Cut off, perhaps: that nobody is revoked says a list that is empty.
            none if none.is_empty() => Err(wrong(
                path,
                "has no revocation list: it should have PEM blocks that begin with -----BEGIN X509 CRL-----",
            )),
            found => Ok(found),
        },
        None => Ok(Vec::new()),
    }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SecurityError> {
    let bytes = read_secret(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if bytes.windows(9).any(|part| part == b"ENCRYPTED") => wrong(
            path,
            "the key is encrypted, and nobody is there to ask: decrypt it, and chmod 600 protects it",
        ),
        pem::Error::NoItemsFound => {
            wrong(path, "has no private key: it should have a PEM block of PKCS#8, SEC1 or PKCS#1")
        }
        error => wrong(path, error.to_string()),
    })
}

fn parse<T: PemObject>(path: &Path, bytes: &[u8]) -> Result<Vec<T>, SecurityError> {
    T::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|error| wrong(path, error.to_string()))
}
