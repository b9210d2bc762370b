//! The store on disk: SQLite with a write-ahead log, synchronised at each commit.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};

use super::{
    Act, Depth, Doubt, Group, Id, Item, Labels, Letter, Limits, Millis, NewItem, NewLetter, RETAINED, Reason,
    ReplyKey, SeenKey, Store, StoreError, Usage, Write,
};
use crate::{envelope::Pattern, sync::is_mutated};

/// What `user_version` says of a file that this release writes.
const VERSION: i64 = 2;
/// Sets our files apart from other programs' SQLite files: "RSOB".
pub(super) const APPLICATION: i64 = 0x5253_4f42;
/// How long a command that looks into the file may make the node wait, and the other way round.
const BUSY: Duration = Duration::from_secs(5);

/// A page of items ends with the one that makes it so large.
const PAGE_BYTES: usize = 4 << 20;
/// So many items are inserted by one statement, as large a part of what is left as there is: beginning and ending a statement, and
/// minting an id by `AUTOINCREMENT`, takes longer than a row does.
const ROWS: [usize; 3] = [64, 8, 1];
static INSERTS: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
        format!(
            "INSERT INTO item (queue, body, key, topic, created, expires, sum, due, trace) VALUES {values}"
        )
    })
});
/// Retained events that are looked at together.
const RETAINED_PAGE: usize = 256;

/// Sums guard what must not change; SQLite has none of its own outside the log. What does change (`due`, `attempts`) is
/// worth less than the item.
const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE queue (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE item (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL REFERENCES queue,
    body BLOB NOT NULL,
    key TEXT,
    topic TEXT,
    created INTEGER NOT NULL,
    expires INTEGER,
    sum INTEGER NOT NULL,
    due INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    doubt INTEGER,
    holder TEXT,
    lost INTEGER NOT NULL DEFAULT 0,
    trace TEXT
);
CREATE INDEX item_of_queue ON item (queue, id);
CREATE TABLE letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL REFERENCES queue,
    body BLOB NOT NULL,
    key TEXT,
    topic TEXT,
    created INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    item INTEGER NOT NULL,
    reason TEXT NOT NULL,
    died INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    chain TEXT NOT NULL,
    instance TEXT,
    replay INTEGER UNIQUE,
    trace TEXT
);
CREATE TABLE sender (id INTEGER PRIMARY KEY, name TEXT NOT NULL, outbox TEXT NOT NULL, UNIQUE (name, outbox));
CREATE TABLE seen (n INTEGER PRIMARY KEY, sender INTEGER NOT NULL, id INTEGER NOT NULL, at INTEGER NOT NULL, UNIQUE (sender, id));
CREATE TABLE reply (
    n INTEGER PRIMARY KEY,
    caller TEXT NOT NULL,
    subject TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (caller, subject, key)
);
CREATE TABLE subscriber (queue TEXT PRIMARY KEY, pattern TEXT NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE damaged (id INTEGER PRIMARY KEY, queue INTEGER, body BLOB, created INTEGER, sum INTEGER);
";

/// What a file of the version before this lacks, from version 1 on.
const UPGRADES: [&str; 1] = ["
ALTER TABLE item ADD COLUMN doubt INTEGER;
ALTER TABLE item ADD COLUMN holder TEXT;
ALTER TABLE item ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE item ADD COLUMN trace TEXT;
ALTER TABLE letter ADD COLUMN trace TEXT;
"];

pub(crate) struct Sqlite {
    db: Connection,
    outbox: String,
    limits: Limits,
    usage: Usage,
    /// By name: they are few, and looked up at each item.
    queues: HashMap<String, i64>,
}

impl Sqlite {
    /// Opens the file, or makes it, and then `outbox` is its name for ever.
    ///
    /// # Errors
    /// [`StoreError::Open`]: it is no store, one of a later release, or cannot be read.
    pub(crate) fn open(path: &Path, outbox: &str, limits: Limits) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { path: PathBuf::from(path), reason };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(error.to_string()))?;
        }
        let db = Connection::open(path).map_err(|error| failed(error.to_string()))?;
        Self::on(db, outbox, limits).map_err(|error| match error {
            StoreError::Disk { reason } | StoreError::Damaged { reason } => failed(reason),
            other => other,
        })
    }

    fn on(mut db: Connection, outbox: &str, limits: Limits) -> Result<Self, StoreError> {
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        let synchronous = if is_mutated("fsync") { "off" } else { "full" };
        db.pragma_update(None, "synchronous", synchronous)?;
        let (application, version) = (pragma(&db, "application_id")?, pragma(&db, "user_version")?);
        match (application, version) {
            (0, 0) => {
                let begin = db.transaction()?;
                begin.execute_batch(SCHEMA)?;
                begin.execute("INSERT INTO meta VALUES ('outbox', ?)", [outbox])?;
                begin.pragma_update(None, "application_id", APPLICATION)?;
                begin.pragma_update(None, "user_version", VERSION)?;
                begin.commit()?;
            }
            (APPLICATION, VERSION) => {}
            (APPLICATION, older @ 1..VERSION) => {
                let begin = db.transaction()?;
                for upgrade in UPGRADES.iter().skip(usize::try_from(older - 1).unwrap_or(usize::MAX)) {
                    begin.execute_batch(upgrade)?;
                }
                begin.pragma_update(None, "user_version", VERSION)?;
                begin.commit()?;
            }
            (APPLICATION, newer) => {
                let reason =
                    format!("it is of version {newer}, and this release knows {VERSION}: update ripstop");
                return Err(StoreError::Damaged { reason });
            }
            _ => {
                let reason = "another program's file is in its place: move it away".into();
                return Err(StoreError::Damaged { reason });
            }
        }
        let outbox = db.query_row("SELECT value FROM meta WHERE name = 'outbox'", [], |row| row.get(0))?;
        let queues = {
            let mut all = db.prepare("SELECT name, id FROM queue")?;
            let all = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            all.collect::<Result<_, _>>()?
        };
        let usage = Usage {
            messages: counted(&db, "messages")?,
            bytes: counted(&db, "bytes")?,
            letters: counted(&db, "letters")?,
        };
        Ok(Self { db, outbox, limits, usage, queues })
    }
}

pub(super) fn pragma(db: &Connection, name: &str) -> Result<i64, StoreError> {
    Ok(db.pragma_query_value(None, name, |row| row.get(0))?)
}

/// A count that is kept, because counting would read everything.
fn counted(db: &Connection, name: &str) -> Result<u64, StoreError> {
    let value = db.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get::<_, i64>(0));
    Ok(value.optional()?.unwrap_or(0) as u64)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { reason },
            _ => Self::Disk { reason },
        }
    }
}

fn sum(queue: &str, body: &[u8], labels: &Labels, created: Millis) -> i64 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(queue.as_bytes());
    sum.update(&created.0.to_le_bytes());
    for label in [&labels.key, &labels.topic].into_iter().flatten() {
        sum.update(label.as_bytes());
    }
    sum.update(body);
    i64::from(sum.finalize())
}

/// SQLite's integers are signed. Neither ids nor times reach the sign in a million years.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn millis(row: &Row<'_>, column: &str) -> rusqlite::Result<Millis> {
    unsigned(row, column).map(Millis)
}

fn labels(row: &Row<'_>) -> rusqlite::Result<Labels> {
    Ok(Labels { key: row.get("key")?, topic: row.get("topic")?, trace: row.get("trace")? })
}

/// An item, and whether its sum is right.
pub(super) fn item(row: &Row<'_>) -> rusqlite::Result<(Item, bool)> {
    let item = Item {
        id: unsigned(row, "id")?,
        queue: row.get("name")?,
        body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
        labels: labels(row)?,
        created: millis(row, "created")?,
        due: millis(row, "due")?,
        expires: row.get::<_, Option<i64>>("expires")?.map(|at| Millis(u64::try_from(at).unwrap_or(0))),
        attempts: row.get("attempts")?,
        error: row.get("error")?,
        doubt: match (row.get::<_, Option<i64>>("doubt")?, row.get("holder")?) {
            (Some(since), Some(holder)) => {
                Some(Doubt { since: Millis(u64::try_from(since).unwrap_or(0)), holder })
            }
            _ => None,
        },
        lost: row.get("lost")?,
    };
    let right = row.get::<_, i64>("sum")? == sum(&item.queue, &item.body, &item.labels, item.created);
    Ok((item, right))
}

fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let reason: String = row.get("reason")?;
    let chain: String = row.get("chain")?;
    Ok(Letter {
        id: unsigned(row, "id")?,
        queue: row.get("name")?,
        body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
        labels: labels(row)?,
        created: millis(row, "created")?,
        about: NewLetter {
            item: unsigned(row, "item")?,
            reason: Reason::ALL.into_iter().find(|known| known.as_str() == reason).unwrap_or(Reason::Refused),
            died: millis(row, "died")?,
            attempts: row.get("attempts")?,
            error: row.get("error")?,
            chain: chain.lines().map(str::to_owned).collect(),
            instance: row.get("instance")?,
        },
        replay: row.get::<_, Option<i64>>("replay")?.map(|id| u64::try_from(id).unwrap_or(0)),
    })
}

/// A letter, and whether its sum is right.
pub(super) fn letter_is_right(row: &Row<'_>) -> rusqlite::Result<(Letter, bool)> {
    let letter = letter(row)?;
    let right = row.get::<_, i64>("sum")? == sum(&letter.queue, &letter.body, &letter.labels, letter.created);
    Ok((letter, right))
}

/// Items of a queue, and whether their sums are right; not more bytes than that, but one at least.
fn page(db: &Connection, queue: &str, after: Id, limit: usize) -> rusqlite::Result<Vec<(Item, bool)>> {
    let mut select = db.prepare_cached(
        "SELECT item.*, name FROM item JOIN queue ON queue.id = item.queue
         WHERE name = ? AND item.id > ? ORDER BY item.id LIMIT ?",
    )?;
    let mut rows = select.query(params![queue, signed(after), signed(limit as u64)])?;
    let (mut read, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let item = item(row)?;
        bytes += item.0.body.len();
        read.push(item);
    }
    Ok(read)
}

/// One transaction, and what it makes of the counts.
struct Change<'a> {
    db: Transaction<'a>,
    queues: &'a mut HashMap<String, i64>,
    limits: Limits,
    usage: Usage,
}

impl Change<'_> {
    fn queue(&mut self, name: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.queues.get(name) {
            return Ok(*id);
        }
        self.db.prepare_cached("INSERT OR IGNORE INTO queue (name) VALUES (?)")?.execute([name])?;
        let id = self.db.query_row("SELECT id FROM queue WHERE name = ?", [name], |row| row.get(0))?;
        self.queues.insert(name.to_owned(), id);
        Ok(id)
    }

    fn put(&mut self, item: &NewItem) -> rusqlite::Result<Id> {
        self.put_rows(&[item])
    }

    /// Puts as many items as one of [`ROWS`] says, with one statement; gives the first one's id. The others' follow it.
    fn put_rows(&mut self, items: &[&NewItem]) -> rusqlite::Result<Id> {
        let queues = items.iter().map(|item| self.queue(&item.queue)).collect::<Result<Vec<_>, _>>()?;
        let size = ROWS.iter().position(|rows| *rows == items.len()).unwrap_or_default();
        let mut insert = self.db.prepare_cached(&INSERTS[size])?;
        for (at, (item, queue)) in items.iter().zip(queues).enumerate() {
            let first = at * 9 + 1;
            insert.raw_bind_parameter(first, queue)?;
            insert.raw_bind_parameter(first + 1, &item.body[..])?;
            insert.raw_bind_parameter(first + 2, &item.labels.key)?;
            insert.raw_bind_parameter(first + 3, &item.labels.topic)?;
            insert.raw_bind_parameter(first + 4, signed(item.created.0))?;
            insert.raw_bind_parameter(first + 5, item.expires.map(|at| signed(at.0)))?;
            let sum = sum(&item.queue, &item.body, &item.labels, item.created);
            insert.raw_bind_parameter(first + 6, sum)?;
            insert.raw_bind_parameter(first + 7, signed(item.due.0))?;
            insert.raw_bind_parameter(first + 8, item.labels.trace.as_deref())?;
            self.usage.bytes += item.body.len() as u64;
        }
        insert.raw_execute()?;
        self.usage.messages += items.len() as u64;
        let last = u64::try_from(self.db.last_insert_rowid()).unwrap_or(0);
        Ok((last + 1).saturating_sub(items.len() as u64))
    }

    /// Everything in its order; items that come one after the other go together.
    fn write_all(&mut self, writes: &[Write]) -> rusqlite::Result<Vec<Option<Id>>> {
        let (mut minted, mut items) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in writes {
            if let Write::Put(item) = write {
                items.push(item);
                continue;
            }
            self.put_all(&items, &mut minted)?;
            items.clear();
            minted.push(self.write(write)?);
        }
        self.put_all(&items, &mut minted)?;
        Ok(minted)
    }

    fn put_all(&mut self, items: &[&NewItem], minted: &mut Vec<Option<Id>>) -> rusqlite::Result<()> {
        let mut left = items;
        for rows in ROWS {
            while let Some((together, rest)) = left.split_at_checked(rows) {
                let first = self.put_rows(together)?;
                minted.extend((first..).take(rows).map(Some));
                left = rest;
            }
        }
        Ok(())
    }

    /// `false`: there is no such item (any more).
    fn remove(&mut self, id: Id) -> rusqlite::Result<bool> {
        let mut delete = self.db.prepare_cached("DELETE FROM item WHERE id = ? RETURNING length(body)")?;
        let bytes = delete.query_row([signed(id)], |row| row.get::<_, i64>(0)).optional()?;
        self.usage.messages -= u64::from(bytes.is_some());
        self.usage.bytes -= u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
        Ok(bytes.is_some())
    }

    /// The letter that this item was a replay of goes.
    fn replayed(&mut self, id: Id) -> rusqlite::Result<()> {
        let mut delete = self.db.prepare_cached("DELETE FROM letter WHERE replay = ?")?;
        self.usage.letters -= delete.execute([signed(id)])? as u64;
        Ok(())
    }

    fn dead(&mut self, about: &NewLetter) -> rusqlite::Result<()> {
        let copied = self
            .db
            .prepare_cached(
                "INSERT INTO letter (queue, body, key, topic, created, sum, item, reason, died, attempts, error, chain, instance, trace)
                 SELECT queue, body, key, topic, created, sum, id, ?2, ?3, ?4, ?5, ?6, ?7, trace FROM item WHERE id = ?1",
            )?
            .execute(params![
                signed(about.item),
                about.reason.as_str(),
                signed(about.died.0),
                about.attempts,
                about.error,
                about.chain.join("\n"),
                about.instance,
            ])?;
        if copied > 0 {
            self.replayed(about.item)?;
            self.remove(about.item)?;
            self.usage.letters += 1;
        }
        Ok(())
    }

    fn saw(&mut self, key: &SeenKey, at: Millis) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO sender (name, outbox) VALUES (?, ?)")?
            .execute([&key.sender, &key.outbox])?;
        self.db
            .prepare_cached(
                "INSERT OR IGNORE INTO seen (sender, id, at)
                 SELECT id, ?3, ?4 FROM sender WHERE name = ?1 AND outbox = ?2",
            )?
            .execute(params![key.sender, key.outbox, signed(key.id), signed(at.0)])?;
        self.forget("seen", at)
    }

    fn replay(&mut self, letter: Id, now: Millis) -> rusqlite::Result<Option<Id>> {
        let mut find = self.db.prepare_cached(
            "SELECT name, body, key, topic, created, trace FROM letter JOIN queue ON queue.id = letter.queue
             WHERE letter.id = ? AND replay IS NULL",
        )?;
        let item = find.query_row([signed(letter)], |row| {
            Ok(NewItem {
                queue: row.get("name")?,
                body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
                labels: labels(row)?,
                created: millis(row, "created")?,
                due: now,
                expires: None,
            })
        });
        let found = item.optional()?;
        drop(find);
        let Some(item) = found else { return Ok(None) };
        let id = self.put(&item)?;
        let mut mark = self.db.prepare_cached("UPDATE letter SET replay = ? WHERE id = ?")?;
        mark.execute([signed(id), signed(letter)])?;
        Ok(Some(id))
    }

    fn group(&mut self, group: &Group) -> rusqlite::Result<()> {
        let (queue, pattern) = (&group.queue, group.pattern.as_str());
        let known = self
            .db
            .prepare_cached("UPDATE subscriber SET seen = max(seen, ?2) WHERE queue = ?1")?
            .execute(params![queue, signed(group.seen.0)])?;
        if known > 0 {
            return Ok(());
        }
        let mut insert = self.db.prepare_cached("INSERT INTO subscriber VALUES (?, ?, ?)")?;
        insert.execute(params![queue, pattern, signed(group.seen.0)])?;
        drop(insert);
        let mut after = 0;
        loop {
            let page = page(&self.db, RETAINED, after, RETAINED_PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = last.id;
            for (item, right) in page {
                let Item { body, labels, created, expires, .. } = item;
                if right && labels.topic.as_ref().is_some_and(|topic| group.pattern.matches(topic)) {
                    let (queue, due) = (queue.clone(), created);
                    self.put(&NewItem { queue, body, labels, created, due, expires })?;
                }
            }
        }
    }

    fn ungroup(&mut self, queue: &str) -> rusqlite::Result<u64> {
        self.db.execute("DELETE FROM subscriber WHERE queue = ?", [queue])?;
        self.remove_where("queue = (SELECT id FROM queue WHERE name = ?)", [queue])
    }

    fn trim(&mut self, before: Millis) -> rusqlite::Result<()> {
        // Two for each that comes: never many at once.
        let old = "id IN (SELECT id FROM item WHERE queue = (SELECT id FROM queue WHERE name = ?) ORDER BY id LIMIT 2)
                   AND created < ?";
        self.remove_where(old, params![RETAINED, signed(before.0)]).map(drop)
    }

    fn remove_where(&mut self, which: &str, params: impl rusqlite::Params) -> rusqlite::Result<u64> {
        let mut delete =
            self.db.prepare_cached(&format!("DELETE FROM item WHERE {which} RETURNING length(body)"))?;
        let (mut count, mut bytes) = (0, 0);
        for length in delete.query_map(params, |row| row.get::<_, i64>(0))? {
            count += 1;
            bytes += u64::try_from(length?).unwrap_or(0);
        }
        self.usage.messages -= count;
        self.usage.bytes -= bytes;
        Ok(count)
    }

    fn reply(&mut self, key: &ReplyKey, body: &[u8], at: Millis) -> rusqlite::Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT OR IGNORE INTO reply (caller, subject, key, body, at) VALUES (?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![key.caller, key.subject, key.key, body, signed(at.0)])?;
        drop(insert);
        self.forget("reply", at)
    }

    /// Two old ones go for each that comes: never many at once.
    fn forget(&self, table: &str, now: Millis) -> rusqlite::Result<()> {
        let delete = format!(
            "DELETE FROM {table} WHERE n IN (SELECT n FROM {table} ORDER BY n LIMIT 2)
             AND (at + ?1 < ?2 OR n + ?3 <= (SELECT max(n) FROM {table}))"
        );
        let (age, now, count) = (signed(self.limits.seen_for), signed(now.0), signed(self.limits.seen));
        self.db.prepare_cached(&delete)?.execute([age, now, count]).map(drop)
    }

    fn write(&mut self, write: &Write) -> rusqlite::Result<Option<Id>> {
        match write {
            Write::Put(item) => return self.put(item).map(Some),
            Write::Replay { letter, now } => return self.replay(*letter, *now),
            Write::Done(id) => {
                self.remove(*id)?;
                self.replayed(*id)?;
            }
            Write::Retry { id, due, attempts, error } => {
                let mut update = self
                    .db
                    .prepare_cached("UPDATE item SET due = ?, attempts = ?, error = ? WHERE id = ?")?;
                update.execute(params![signed(due.0), attempts, error, signed(*id)])?;
            }
            Write::Doubt { id, doubt, lost } => {
                let mut update = self.db.prepare_cached(
                    "UPDATE item SET doubt = coalesce(doubt, ?), holder = ?, lost = lost + ? WHERE id = ?",
                )?;
                update.execute(params![signed(doubt.since.0), doubt.holder, lost, signed(*id)])?;
            }
            Write::Sure(id) => {
                let mut update =
                    self.db.prepare_cached("UPDATE item SET doubt = NULL, holder = NULL WHERE id = ?")?;
                return Ok((update.execute([signed(*id)])? > 0).then_some(*id));
            }
            Write::Dead(about) => self.dead(about)?,
            Write::Seen { key, at } => self.saw(key, *at)?,
            Write::Purge(letter) => {
                let mut delete = self.db.prepare_cached("DELETE FROM letter WHERE id = ?")?;
                let purged = delete.execute([signed(*letter)])? as u64;
                self.usage.letters -= purged;
                return Ok((purged > 0).then_some(*letter));
            }
            Write::Cancel(id) => {
                self.replayed(*id)?;
                return Ok(self.remove(*id)?.then_some(*id));
            }
            Write::Hurry { id, now } => {
                let mut update = self.db.prepare_cached("UPDATE item SET due = min(due, ?) WHERE id = ?")?;
                return Ok((update.execute([signed(now.0), signed(*id)])? > 0).then_some(*id));
            }
            Write::Group(group) => self.group(group)?,
            Write::Ungroup(queue) => return self.ungroup(queue).map(Some),
            Write::Trim(before) => self.trim(*before)?,
            Write::Reply { key, body, at } => self.reply(key, body, *at)?,
        }
        Ok(None)
    }

    fn end(self, before: Usage) -> rusqlite::Result<Usage> {
        if self.usage != before {
            let mut keep = self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?;
            let Usage { messages, bytes, letters } = self.usage;
            for (name, value) in [("messages", messages), ("bytes", bytes), ("letters", letters)] {
                keep.execute(params![name, signed(value)])?;
            }
        }
        self.db.commit()?;
        Ok(self.usage)
    }
}

impl Store for Sqlite {
    fn outbox(&self) -> &str {
        &self.outbox
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Option<Id>>, StoreError> {
        let before = self.usage;
        let known = self.queues.len();
        let committed = self.db.transaction().and_then(|db| {
            let (queues, limits) = (&mut self.queues, self.limits);
            let mut change = Change { db, queues, limits, usage: before };
            let minted = change.write_all(writes)?;
            Ok((change.end(before)?, minted))
        });
        match committed {
            Ok((usage, minted)) => {
                self.usage = usage;
                Ok(minted)
            }
            Err(error) => {
                // A queue that was first named in it is not there either.
                if self.queues.len() > known {
                    self.queues.clear();
                }
                Err(error.into())
            }
        }
    }

    fn act(&mut self, act: Act) -> Result<(), StoreError> {
        let before = self.usage;
        let db = self.db.transaction()?;
        let record = act(&db);
        if db.is_autocommit() {
            let reason = "the handler has ended the transaction that it was given: its effect may be there without its record";
            return Err(StoreError::Disk { reason: reason.into() });
        }
        // Dropped, it rolls back.
        let Some(record) = record else { return Ok(()) };
        let (queues, limits) = (&mut self.queues, self.limits);
        let mut change = Change { db, queues, limits, usage: before };
        change.write(&record)?;
        self.usage = change.end(before)?;
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<String>, StoreError> {
        let mut names = self.db.prepare_cached(
            "SELECT name FROM queue WHERE EXISTS (SELECT 1 FROM item WHERE item.queue = queue.id) ORDER BY name",
        )?;
        let names = names.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    fn depths(&mut self) -> Result<Vec<Depth>, StoreError> {
        let mut depths = self.db.prepare_cached(
            "SELECT name, count(*) AS messages, min(created) AS oldest FROM item JOIN queue ON queue.id = item.queue
             GROUP BY queue ORDER BY name",
        )?;
        let depths = depths.query_map([], |row| {
            let (messages, oldest) = (unsigned(row, "messages")?, millis(row, "oldest")?);
            Ok(Depth { queue: row.get("name")?, messages, oldest })
        })?;
        Ok(depths.collect::<Result<_, _>>()?)
    }

    fn page(&mut self, queue: &str, after: Id, limit: usize) -> Result<Vec<Item>, StoreError> {
        let mut after = after;
        loop {
            let read = page(&self.db, queue, after, limit)?;
            let Some((last, _)) = read.last() else { return Ok(Vec::new()) };
            after = last.id;
            let (right, damaged): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, right)| *right);
            for (item, _) in damaged {
                self.put_aside(&item)?;
            }
            if !right.is_empty() {
                return Ok(right.into_iter().map(|(item, _)| item).collect());
            }
        }
    }

    fn item(&mut self, id: Id) -> Result<Option<Item>, StoreError> {
        let found = self
            .db
            .prepare_cached(
                "SELECT item.*, name FROM item JOIN queue ON queue.id = item.queue WHERE item.id = ?",
            )?
            .query_row([signed(id)], item)
            .optional()?;
        match found {
            Some((item, false)) => self.put_aside(&item).map(|()| None),
            found => Ok(found.map(|(item, _)| item)),
        }
    }

    fn seen(&mut self) -> Result<Vec<SeenKey>, StoreError> {
        let mut all = self.db.prepare_cached(
            "SELECT name, outbox, seen.id FROM seen JOIN sender ON sender.id = seen.sender ORDER BY n",
        )?;
        let all = all.query_map([], |row| {
            Ok(SeenKey { sender: row.get("name")?, outbox: row.get("outbox")?, id: unsigned(row, "id")? })
        })?;
        Ok(all.collect::<Result<_, _>>()?)
    }

    fn letters(&mut self, after: Id, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let mut page = self.db.prepare_cached(
            "SELECT letter.*, name FROM letter JOIN queue ON queue.id = letter.queue
             WHERE letter.id > ? ORDER BY letter.id LIMIT ?",
        )?;
        let mut rows = page.query([signed(after), signed(limit as u64)])?;
        let (mut read, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES
            && let Some(row) = rows.next()?
        {
            let letter = letter(row)?;
            bytes += letter.body.len();
            read.push(letter);
        }
        Ok(read)
    }

    fn groups(&mut self) -> Result<Vec<Group>, StoreError> {
        let mut all = self.db.prepare_cached("SELECT queue, pattern, seen FROM subscriber ORDER BY queue")?;
        let all = all.query_map([], |row| {
            let pattern = Pattern::parse(&row.get::<_, String>("pattern")?);
            Ok(pattern
                .ok()
                .map(|pattern| Ok(Group { queue: row.get("queue")?, pattern, seen: millis(row, "seen")? })))
        })?;
        // One that cannot be read was not written by us.
        Ok(all.filter_map(Result::transpose).map(|group| group?).collect::<Result<_, rusqlite::Error>>()?)
    }

    fn reply(&mut self, key: &ReplyKey) -> Result<Option<Bytes>, StoreError> {
        let mut find =
            self.db.prepare_cached("SELECT body FROM reply WHERE caller = ? AND subject = ? AND key = ?")?;
        let body = find.query_row([&key.caller, &key.subject, &key.key], |row| row.get::<_, Vec<u8>>(0));
        Ok(body.optional()?.map(Bytes::from))
    }
}

impl Sqlite {
    /// What was damaged on disk is kept, where it is in nobody's way.
    fn put_aside(&mut self, item: &Item) -> Result<(), StoreError> {
        tracing::error!(id = item.id, queue = item.queue, "a kept item is damaged and was put aside");
        metrics::counter!("ripstop_store_errors_total", "reason" => "damaged").increment(1);
        let before = self.usage;
        let db = self.db.transaction()?;
        db.execute(
            "INSERT INTO damaged SELECT id, queue, body, created, sum FROM item WHERE id = ?",
            [signed(item.id)],
        )?;
        let mut change = Change { db, queues: &mut self.queues, limits: self.limits, usage: before };
        change.remove(item.id)?;
        self.usage = change.end(before)?;
        Ok(())
    }
}

#[cfg(test)]
impl Sqlite {
    pub(super) fn db_for_tests(&self) -> &Connection {
        &self.db
    }

    /// Items that were put aside.
    pub(super) fn damaged_for_tests(&self) -> usize {
        let count = self.db.query_row("SELECT count(*) FROM damaged", [], |row| row.get::<_, i64>(0));
        usize::try_from(count.unwrap()).unwrap()
    }

    /// What a whole check says.
    pub(super) fn is_broken_for_tests(&self) -> bool {
        let check = self.db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        check.ok().is_none_or(|said| said != "ok")
    }
}
