//! Looking after a node's store from outside: is it whole, what is in it, can it be smaller.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{
    StoreError,
    sqlite::{APPLICATION, item, letter_is_right, pragma},
};

/// How long a node that is at work may keep us waiting.
const BUSY: Duration = Duration::from_secs(5);
/// Problems that are told one by one.
const TOLD: usize = 20;

/// The store in a node's `data_dir`. Everything blocks.
///
/// ```no_run
/// let store = ripstop::durable::StoreFile::open("/var/lib/pricing".as_ref())?;
/// println!("{} items wait", store.stats()?.items);
/// # Ok::<(), ripstop::durable::StoreError>(())
/// ```
#[derive(Debug)]
pub struct StoreFile {
    dir: PathBuf,
    path: PathBuf,
    db: Connection,
}

/// What [`StoreFile::check`] has found.
///
/// ```
/// assert!(ripstop::durable::StoreCheck::default().is_whole());
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct StoreCheck {
    /// Items that were looked at.
    pub items: u64,
    /// Dead letters that were looked at.
    pub letters: u64,
    /// Items that were damaged when they were read, and put aside then.
    pub put_aside: u64,
    /// What is wrong, the first twenty of it; empty: nothing.
    pub problems: Vec<String>,
}

impl StoreCheck {
    /// Whether nothing is wrong now.
    ///
    /// ```
    /// assert!(ripstop::durable::StoreCheck::default().is_whole());
    /// ```
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is in a store.
///
/// ```
/// assert_eq!(ripstop::durable::StoreStats::default().items, 0);
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct StoreStats {
    /// Items that wait.
    pub items: u64,
    /// The bytes of their bodies.
    pub bytes: u64,
    /// Dead letters.
    pub letters: u64,
    /// What was done here and is remembered.
    pub seen: u64,
    /// Replies to calls with an idempotency key.
    pub replies: u64,
    /// Durable subscriptions that events are kept for.
    pub subscriptions: u64,
    /// Items that were damaged and put aside.
    pub put_aside: u64,
    /// Bytes on disk, the log included.
    pub file_bytes: u64,
    /// Bytes of them that nothing is in: [`StoreFile::compact`] gives them back.
    pub free_bytes: u64,
}

impl StoreFile {
    /// Opens the store in this `data_dir`; a node may be using it.
    ///
    /// # Errors
    /// [`StoreError::Open`]: there is none, or it is another program's file.
    ///
    /// ```
    /// let error = ripstop::durable::StoreFile::open("/nowhere".as_ref()).unwrap_err();
    /// assert!(error.to_string().contains("there is no store"));
    /// ```
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join("store.db");
        let failed = |reason: String| StoreError::Open { path: path.clone(), reason };
        if !path.is_file() {
            return Err(failed("there is no store; name a node's data_dir".into()));
        }
        let open = || {
            let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            db.busy_timeout(BUSY)?;
            let application = pragma(&db, "application_id")?;
            Ok((db, application))
        };
        let (db, application) = open().map_err(|error: StoreError| failed(error.to_string()))?;
        if application != APPLICATION {
            return Err(failed("it is another program's file".into()));
        }
        Ok(Self { dir: data_dir.to_owned(), path, db })
    }

    /// Reads everything, and says what is damaged. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Damaged`]: it cannot even be read.
    ///
    /// ```no_run
    /// let check = ripstop::durable::StoreFile::open("/var/lib/pricing".as_ref())?.check()?;
    /// assert!(check.is_whole(), "{:?}", check.problems);
    /// # Ok::<(), ripstop::durable::StoreError>(())
    /// ```
    pub fn check(&self) -> Result<StoreCheck, StoreError> {
        let mut found = StoreCheck { put_aside: self.count("damaged")?, ..StoreCheck::default() };
        let mut all = self.db.prepare("PRAGMA integrity_check(20)")?;
        for said in all.query_map([], |row| row.get::<_, String>(0))? {
            let said = said?;
            if said != "ok" {
                found.problems.push(said);
            }
        }
        let mut items =
            self.db.prepare("SELECT item.*, name FROM item JOIN queue ON queue.id = item.queue")?;
        let mut rows = items.query([])?;
        while let Some(row) = rows.next()? {
            found.items += 1;
            let (item, right) = item(row)?;
            if !right && found.problems.len() < TOLD {
                found.problems.push(format!("item {} of queue {} is damaged", item.id, item.queue));
            }
        }
        let mut letters =
            self.db.prepare("SELECT letter.*, name FROM letter JOIN queue ON queue.id = letter.queue")?;
        let mut rows = letters.query([])?;
        while let Some(row) = rows.next()? {
            found.letters += 1;
            let (letter, right) = letter_is_right(row)?;
            if !right && found.problems.len() < TOLD {
                found
                    .problems
                    .push(format!("dead letter {} of queue {} is damaged", letter.id, letter.queue));
            }
        }
        for (what, counted) in [("item", found.items), ("letter", found.letters)] {
            let there = self.count(what)?;
            if there != counted {
                found
                    .problems
                    .push(format!("{} of {there} rows of {what} belong to no queue", there - counted));
            }
        }
        Ok(found)
    }

    /// Counts what is there.
    ///
    /// # Errors
    /// As for [`StoreFile::check`].
    ///
    /// ```no_run
    /// println!("{:?}", ripstop::durable::StoreFile::open("/var/lib/pricing".as_ref())?.stats()?);
    /// # Ok::<(), ripstop::durable::StoreError>(())
    /// ```
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let bytes = self
            .db
            .query_row("SELECT coalesce(sum(length(body)), 0) FROM item", [], |row| row.get::<_, i64>(0))?;
        let free = pragma(&self.db, "freelist_count")? * pragma(&self.db, "page_size")?;
        Ok(StoreStats {
            items: self.count("item")?,
            bytes: u64::try_from(bytes).unwrap_or(0),
            letters: self.count("letter")?,
            seen: self.count("seen")?,
            replies: self.count("reply")?,
            subscriptions: self.count("subscriber")?,
            put_aside: self.count("damaged")?,
            file_bytes: self.size(),
            free_bytes: u64::try_from(free).unwrap_or(0),
        })
    }

    /// Gives free room back to the file system: bytes on disk before and after. No node may use the store meanwhile, and the disk
    /// must have room for a second copy.
    ///
    /// # Errors
    /// [`StoreError::Open`]: a node uses it. [`StoreError::Disk`]: there is no room.
    ///
    /// ```no_run
    /// let (before, after) = ripstop::durable::StoreFile::open("/var/lib/pricing".as_ref())?.compact()?;
    /// println!("{} bytes less", before - after);
    /// # Ok::<(), ripstop::durable::StoreError>(())
    /// ```
    pub fn compact(&self) -> Result<(u64, u64), StoreError> {
        let failed = |reason: String| StoreError::Open { path: self.path.clone(), reason };
        let lock = File::create(self.dir.join("node.lock")).map_err(|error| failed(error.to_string()))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => failed("a node uses it: stop that first".into()),
            TryLockError::Error(error) => failed(error.to_string()),
        })?;
        let before = self.size();
        self.db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
        Ok((before, self.size()))
    }

    fn count(&self, table: &str) -> Result<u64, StoreError> {
        let count =
            self.db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    fn size(&self) -> u64 {
        let beside = |end| self.path.with_file_name(format!("store.db{end}"));
        ["", "-wal"].iter().filter_map(|end| fs::metadata(beside(end)).ok()).map(|file| file.len()).sum()
    }
}
