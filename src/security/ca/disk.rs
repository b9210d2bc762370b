//! Files of a CA and of nodes: whole or not at all, and for nobody else's eyes.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::security::SecurityError;

/// No file of a CA is longer: a revocation list of 100,000 certificates has about 4 MB.
const LONGEST: u64 = 64 << 20;

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecurityError {
    let path: PathBuf = path.to_owned();
    move |error| SecurityError::Io { action, path, error }
}

pub(super) fn wrong(path: &Path, reason: impl Into<String>) -> SecurityError {
    SecurityError::Material { path: path.to_owned(), reason: reason.into() }
}

/// Makes a directory, and those above it, for the owner alone. What is there already keeps its mode.
pub(super) fn make_dir(dir: &Path) -> Result<(), SecurityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(failed("create", dir))
}

/// Puts a file in the place of whatever has its name, in one step: a reader sees the old one or the new one, whole. Its mode
/// is 0600 from the first byte on.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), SecurityError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let written = tempfile::Builder::new().prefix(".ripstop-").tempfile_in(dir).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(failed("write", path))
}

/// `None`: there is no such file.
pub(super) fn get(path: &Path) -> Result<Option<Zeroizing<String>>, SecurityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    read(file, path).map(Some)
}

/// The same for a private key: it is refused when others can read it.
pub(super) fn get_secret(path: &Path) -> Result<Option<Zeroizing<String>>, SecurityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecurityError::NotPrivate { path: path.to_owned(), mode });
        }
    }
    read(file, path).map(Some)
}

fn open(path: &Path) -> Result<Option<fs::File>, SecurityError> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn read(file: fs::File, path: &Path) -> Result<Zeroizing<String>, SecurityError> {
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(text)
}

/// Takes away a file that need not be there.
pub(super) fn remove(path: &Path) -> Result<(), SecurityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
