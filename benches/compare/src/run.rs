//! One run: two processes, what they say, and what the kernel says of them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::Result;
use crate::systems::{HELPER, System};
use crate::work::{Kind, Measured, Row};

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many messages, or so many bytes of them, say about how fast a system is.
const TRIAL: (u64, u64) = (20_000, 256 << 20);

/// Ended when it is dropped.
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `program`, or this one, on the first core if it is to be there.
pub fn command(program: Option<&str>, pinned: bool) -> Result<Command> {
    let program = match program {
        Some(program) => program.into(),
        None => std::env::current_exe()?,
    };
    if !pinned {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    Ok(command)
}

/// How many messages take about so long: what a short run took, twice, because the first is mostly its beginning.
pub fn calibrate(system: &System, row: &Row, seconds: f64) -> Result<u64> {
    let mut count = match row.kind {
        Kind::Durable(senders) => u64::from(senders) * 200,
        _ => TRIAL.0.min(TRIAL.1 / row.size as u64),
    };
    for seconds in [seconds / 4.0, seconds] {
        count = (run(system, row, count)?.rate / row.kind.receivers() as f64 * seconds).max(100.0) as u64;
    }
    Ok(count)
}

/// The process that stays says where it is, then the other one comes.
pub fn run(system: &System, row: &Row, count: u64) -> Result<Measured> {
    let helper = system.helper.map(|start| start(row.pinned)).transpose()?;
    let (said, hear) = mpsc::channel();
    let start = |side: &str, endpoint: &str| -> Result<Reaped> {
        let mut command = command(None, row.pinned)?;
        let (size, count) = (row.size.to_string(), count.to_string());
        command.args(["--role", system.name, side, row.kind.name(), &size, &count, endpoint]);
        if let Some(helper) = &helper {
            command.env(HELPER, &helper.endpoint);
        }
        let mut process = Reaped(command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?);
        let output = process.0.stdout.take().ok_or("no output")?;
        let said = said.clone();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(std::io::Result::ok).try_for_each(|line| said.send(line))
        });
        Ok(process)
    };
    let stays = start("stay", "-")?;
    let endpoint = hear.recv_timeout(PATIENCE).map_err(|_| "it does not say where it is")?;
    let comes = start("come", &endpoint)?;
    drop(said);
    // Whoever knows the result says it.
    let line =
        hear.recv_timeout(PATIENCE).map_err(|_| "it ended, or went on for too long, without a result")?;
    let mut measured: Measured = serde_json::from_str(&line)?;
    let used = [Some(&stays), Some(&comes), helper.as_ref().map(|helper| &helper.process)];
    let used: Option<f64> = used.into_iter().flatten().map(processor_time).sum();
    measured.cpu = used.map(|seconds| seconds / count as f64 * 1e6);
    Ok(measured)
}

/// Seconds that a process and those that it has started and waited for have used.
fn processor_time(process: &Reaped) -> Option<f64> {
    let stat = procfs::process::Process::new(process.0.id().try_into().ok()?).ok()?.stat().ok()?;
    let ticks = stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).ok()?;
    Some(ticks as f64 / procfs::ticks_per_second() as f64)
}
