//! What is on disk when its sender is told so: ours, and what the disk and SQLite give to whoever gathers all that waits into one
//! write or one transaction. Nobody takes anything away.
//!
//! ```text
//!   1, 32 or 256 senders ──▶ one thread: all that waits ──▶ disk ──▶ all of them are answered
//! ```

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ripstop::Node;
use tokio::sync::{mpsc, oneshot};

use super::System;
use crate::Result;
use crate::work::{Work, here};

pub const OURS: System =
    System { name: "ripstop durable", come: |work, _| super::block_on(work, ours), ..ALONE };
pub const LOG: System = System { name: "raw log", come: |work, _| super::block_on(work, log), ..ALONE };
pub const SQLITE: System = System { name: "sqlite", come: |work, _| super::block_on(work, sqlite), ..ALONE };

/// Nobody is needed on the other side.
const ALONE: System = System {
    name: "",
    kinds: super::DURABLE,
    size: None,
    helper: None,
    stay: |_| {
        here("-");
        loop {
            std::thread::park();
        }
    },
    come: |_, _| Ok(()),
};

/// Written before it is used, so that a record changes no metadata.
const LOG_BYTES: usize = 64 << 20;
/// Taken together at most; of ours as well.
const TOGETHER: usize = 4096;

/// A directory on a disk, in which data can be lost.
pub fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("ripstop-durable-").tempdir_in(place()?)?)
}

/// Where this program is: not in /tmp, which may be memory.
fn place() -> Result<PathBuf> {
    let mut place = std::env::current_exe()?;
    place.pop();
    Ok(place)
}

/// The file system that [`directory`] is on, and its device.
pub fn disk() -> Result<String> {
    let place = place()?.canonicalize()?;
    let mounts = procfs::process::Process::myself()?.mountinfo()?;
    let mounts = mounts.into_iter().filter(|mount| place.starts_with(&mount.mount_point));
    let mount = mounts.max_by_key(|mount| mount.mount_point.components().count()).ok_or("no file system")?;
    if mount.fs_type == "tmpfs" {
        return Err(format!("{} is in memory: set CARGO_TARGET_DIR to a disk", place.display()).into());
    }
    Ok(format!("{} on {}", mount.fs_type, mount.mount_source.unwrap_or_default()))
}

async fn ours(work: Work) -> Result<()> {
    let dir = directory()?;
    let builder = Node::builder("sender").listen("127.0.0.1:0").insecure(true).local(false).mdns(false);
    let node = builder.data_dir(dir.path()).start().await?;
    let message = Bytes::from(work.message());
    super::many(work, move || {
        let (node, message) = (node.clone(), message.clone());
        async move { Ok(node.push("work", &message).durable().await.map(drop)?) }
    })
    .await
}

async fn log(work: Work) -> Result<()> {
    let dir = directory()?;
    let mut file = File::create(dir.path().join("log"))?;
    let (mut buffer, mut at) = (vec![0; LOG_BYTES], 0);
    file.write_all(&buffer)?;
    file.sync_all()?;
    gathered(work, move |batch| {
        buffer.clear();
        batch.iter().for_each(|record| buffer.extend_from_slice(record));
        if at + buffer.len() > LOG_BYTES {
            at = 0;
        }
        file.seek(SeekFrom::Start(at as u64))?;
        file.write_all(&buffer)?;
        at += buffer.len();
        Ok(file.sync_data()?)
    })
    .await
}

async fn sqlite(work: Work) -> Result<()> {
    let dir = directory()?;
    let mut db = open(dir.path())?;
    gathered(work, move |batch| {
        let together = db.transaction()?;
        let mut insert = together.prepare_cached("INSERT INTO item (body) VALUES (?)")?;
        for record in batch {
            insert.execute([&record[..]])?;
        }
        drop(insert);
        Ok(together.commit()?)
    })
    .await
}

fn open(dir: &Path) -> Result<rusqlite::Connection> {
    let db = rusqlite::Connection::open(dir.join("db"))?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    Ok(db)
}

/// Senders, and a thread that writes all that waits with one call of `write`. Nobody waits for others to come.
async fn gathered(work: Work, mut write: impl FnMut(&[Bytes]) -> Result<()> + Send + 'static) -> Result<()> {
    let (records, mut asked) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(TOGETHER);
    std::thread::spawn(move || {
        let (mut batch, mut waiting) = (Vec::new(), Vec::new());
        while let Some((record, done)) = asked.blocking_recv() {
            batch.push(record);
            waiting.push(done);
            while batch.len() < TOGETHER
                && let Ok((record, done)) = asked.try_recv()
            {
                batch.push(record);
                waiting.push(done);
            }
            if let Err(error) = write(&batch) {
                eprintln!("{error}");
                return;
            }
            batch.clear();
            waiting.drain(..).for_each(|done| _ = done.send(()));
        }
    });
    let message = Bytes::from(work.message());
    super::many(work, move || {
        let (records, message) = (records.clone(), message.clone());
        async move {
            let (done, answer) = oneshot::channel();
            records.send((message, done)).await?;
            Ok(answer.await?)
        }
    })
    .await
}
