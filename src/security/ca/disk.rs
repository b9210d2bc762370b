//! Files of a CA and of nodes: whole or not at all, and for nobody else's eyes.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::super::files;
pub(in crate::security) use super::super::files::wrong;
use crate::security::SecurityError;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecurityError {
    let path = path.to_owned();
    move |error| SecurityError::Io { action, path, error }
}

/// Makes a directory, and those above it, for the owner alone. What is there already keeps its mode.
pub(in crate::security) fn make_dir(dir: &Path) -> Result<(), SecurityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(failed("create", dir))
}

/// Puts a file in the place of whatever has its name, in one step: a reader sees the old one or the new one, whole. Its mode
/// is 0600 from the first byte on.
pub(in crate::security) fn put(path: &Path, bytes: &[u8]) -> Result<(), SecurityError> {
    let written = beside(path, bytes).and_then(|file| file.persist(path).map_err(|error| error.error));
    written.map(drop).map_err(failed("write", path))
}

/// The same, unless something has its name; false: something has.
pub(super) fn put_new(path: &Path, bytes: &[u8]) -> Result<bool, SecurityError> {
    let file = beside(path, bytes).map_err(failed("write", path))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("write", path)(error.error)),
    }
}

fn beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".ripstop-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// `None`: there is no such file.
pub(in crate::security) fn get(path: &Path) -> Result<Option<String>, SecurityError> {
    there(files::read(path))?.map(|bytes| String::from_utf8(bytes).map_err(|_| no_text(path))).transpose()
}

/// The same for a private key: it is refused when others can read it.
pub(in crate::security) fn get_secret(path: &Path) -> Result<Option<Zeroizing<String>>, SecurityError> {
    let text = |bytes: Zeroizing<Vec<u8>>| match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(no_text(path)),
    };
    there(files::read_secret(path))?.map(text).transpose()
}

fn there<T>(read: Result<T, SecurityError>) -> Result<Option<T>, SecurityError> {
    match read {
        Err(SecurityError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn no_text(path: &Path) -> SecurityError {
    wrong(path, "is no text, and PEM and TOML are")
}

/// Takes away a file that need not be there.
pub(super) fn remove(path: &Path) -> Result<(), SecurityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
