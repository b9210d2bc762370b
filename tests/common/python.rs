//! The Python that the interop tests talk to: an environment of our own under `target/`, with pinned packages.
//!
//! Where there is no Python 3 or no network, tests skip loudly; `CI`, or `interop` in the comma-separated list
//! `REQUIRE_RIPSTOP`, makes that a failure. `RIPSTOP_PYTHON` names the interpreter of an environment that has the
//! packages already.

#![allow(clippy::unwrap_used)] // the helpers are tests, too

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGES: [&str; 2] = ["pyzmq==27.3.0", "msgpack==1.2.4"];

/// The interpreter; `None` (said on standard error, with the reason) if this test is to be skipped.
pub(crate) fn python(what_is_not_tried: &str) -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(prepare) {
        Ok(python) => Some(python),
        Err(reason) => {
            let listed = std::env::var("REQUIRE_RIPSTOP")
                .is_ok_and(|list| list.split(',').any(|one| one == "interop"));
            assert!(!listed && std::env::var_os("CI").is_none(), "no Python for the interop tests: {reason}");
            eprintln!("SKIPPED: {what_is_not_tried}: {reason}");
            None
        }
    }
}

fn prepare() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("RIPSTOP_PYTHON") {
        run(Command::new(&given).args(["-c", "import msgpack, zmq"]))?;
        return Ok(given.into());
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop-venv");
    let python = place.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    // Test programs run side by side: one makes it, the others wait. The lock goes with its process.
    let lock = File::create(place.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let (done, wanted) = (place.join("installed"), PACKAGES.join(" "));
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let pip =
        ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "15", "--retries", "1"];
    run(Command::new(&python).args(pip).args(PACKAGES))?;
    std::fs::write(&done, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}", said.trim()))
}
