//! The SQLite file: the durable part of the current state, and how far revisions are reserved. It has no history.
//!
//! A row's id is the revision that created its key: unique, and growing, so that new rows go to the end of the table and
//! no index on the key is needed (the index is in memory). Free pages are given back in small steps as part of later
//! transactions.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use crate::spare::Spare;
use crate::{Entry, Error, Event, EventKind, Revision};

/// "cpod", in the header of the file.
const APPLICATION_ID: i64 = 0x6370_6f64;
/// The layout of the tables.
const FORMAT: i64 = 1;
/// The smallest cap on the size of the file: room for the tables themselves.
const FILE_BYTES_MIN: u64 = 64 << 10;
/// How long to wait for another process that has the file open, such as a backup tool.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Free pages that are kept for new rows; beyond that, and beyond a quarter of the file, they are given back. On a full
/// disk none are kept.
const FREE_PAGES_KEPT: i64 = 256;
/// Free pages given back by one transaction.
const FREE_PAGES_STEP: i64 = 64;

const TABLES: &str = "
    CREATE TABLE entries (id INTEGER PRIMARY KEY, key TEXT NOT NULL, modified INTEGER NOT NULL, value BLOB NOT NULL);
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 0), reserved INTEGER NOT NULL);
    INSERT INTO meta VALUES (0, 0);";

/// The connection that writes, and the lock that keeps other processes out.
pub(crate) struct Disk {
    connection: Connection,
    path: PathBuf,
    spare: Spare,
    _lock: File,
}

impl Disk {
    /// Opens or creates the file, and checks all of it if it was not closed properly.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> Result<Disk, Error> {
        create(path).map_err(|error| open_error(path, &error))?;
        let lock = lock(path)?;
        let interrupted = suffixed(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| opening(path, &error))?;
        let spare = Spare::take(suffixed(path, "-spare"));
        let disk = Disk { connection, path: path.to_owned(), spare, _lock: lock };
        disk.prepare(bytes_max.max(FILE_BYTES_MIN)).map_err(|error| opening(path, &error))?;
        if disk.connection.is_readonly("main").unwrap_or(true) {
            return Err(open_error(path, &"it is read-only"));
        }
        disk.recognise()?;
        if interrupted {
            disk.check()?;
        }
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands out every row and returns up to where revisions are reserved.
    pub(crate) fn load(
        &self,
        mut each: impl FnMut(Entry) -> Result<(), Error>,
    ) -> Result<Revision, Error> {
        let failed = |error: rusqlite::Error| opening(&self.path, &error);
        let mut statement = self
            .connection
            .prepare("SELECT id, key, modified, value FROM entries ORDER BY id")
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let entry = entry_of(row).map_err(failed)?;
            if entry.created == 0 || entry.modified < entry.created {
                return Err(corrupt(&self.path, &format!("revisions of {} are wrong", entry.key)));
            }
            each(entry)?;
        }
        let reserved: i64 = self
            .connection
            .query_row("SELECT reserved FROM meta WHERE id = 0", [], |row| row.get(0))
            .map_err(failed)?;
        Ok(reserved.unsigned_abs())
    }

    /// Puts changes (and a reservation of revisions) into a transaction that is still to be committed.
    pub(crate) fn write<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Event>,
        reserve: Option<Revision>,
    ) -> Result<Pending<'_>, Error> {
        let path = &self.path;
        let failed = |error: rusqlite::Error| writing(path, &error);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        for event in changes {
            apply(&transaction, event).map_err(failed)?;
        }
        if let Some(reserve) = reserve {
            transaction
                .prepare_cached("UPDATE meta SET reserved = ?1 WHERE id = 0")
                .and_then(|mut statement| statement.execute([signed(reserve)]))
                .map_err(failed)?;
        }
        let kept = if self.spare.is_held() { FREE_PAGES_KEPT } else { 0 };
        give_back(&transaction, kept).map_err(failed)?;
        Ok(Pending { transaction, path })
    }

    /// Removes rows in a transaction of its own.
    pub(crate) fn remove(&mut self, ids: &[Revision]) -> Result<(), Error> {
        let path = &self.path;
        let failed = |error: rusqlite::Error| writing(path, &error);
        let transaction = self.connection.transaction().map_err(failed)?;
        for id in ids {
            transaction
                .execute("DELETE FROM entries WHERE id = ?1", [signed(*id)])
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Takes revisions out of use, so that the next one is larger by `count` than it would be.
    pub(crate) fn skip(&self, count: Revision) -> Result<(), Error> {
        self.connection
            .execute("UPDATE meta SET reserved = reserved + ?1 WHERE id = 0", [signed(count)])
            .map(drop)
            .map_err(|error| writing(&self.path, &error))
    }

    /// The value written at `modified` to the key created at `created`, if it is still the current one.
    pub(crate) fn value(
        &self,
        created: Revision,
        modified: Revision,
    ) -> Result<Option<Bytes>, Error> {
        read_value(&self.connection, &self.path, created, modified)
    }

    /// Whether there is space for what makes the file grow. Once the spare space is used up it must come back first.
    pub(crate) fn may_grow(&mut self) -> bool {
        self.spare.hold()
    }

    /// Gives up the spare space so that the log beside the file can be moved into the file and start over: what it
    /// occupies is what writes on a full disk can use, deletions too.
    pub(crate) fn use_spare(&mut self) {
        self.spare.release();
        let folded = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        if let Err(error) = folded {
            tracing::warn!(path = %self.path.display(), %error, "log beside the database is not folded");
        }
    }

    /// Brings everything into the one file and closes it. `reserve` gives back the revisions reserved but not used.
    pub(crate) fn close(mut self, reserve: Option<Revision>) -> Result<(), Error> {
        if reserve.is_some() {
            self.write(std::iter::empty(), reserve)?.commit()?;
        }
        let failed = |error: rusqlite::Error| writing(&self.path, &error);
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(failed)?;
        self.connection.close().map_err(|(_, error)| writing(&self.path, &error))
    }

    fn prepare(&self, bytes_max: u64) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        if number("PRAGMA page_count")? == 0 {
            // Takes effect in an empty file only, but would write to the header of any.
            connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
        }
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA cache_size = -1024;
             PRAGMA temp_store = MEMORY;
             PRAGMA wal_autocheckpoint = 512;
             PRAGMA journal_size_limit = 2097152;
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;",
        )?;
        let pages_max = signed(bytes_max) / number("PRAGMA page_size")?.max(1);
        connection.query_row(&format!("PRAGMA max_page_count = {pages_max}"), [], |_| Ok(()))
    }

    /// Makes the tables in an empty file; refuses a file that somebody else made.
    fn recognise(&self) -> Result<(), Error> {
        let failed = |error: rusqlite::Error| opening(&self.path, &error);
        let number = |sql: &str| -> Result<i64, Error> {
            self.connection.query_row(sql, [], |row| row.get(0)).map_err(failed)
        };
        let application = number("PRAGMA application_id")?;
        let format = number("PRAGMA user_version")?;
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        match (application, format) {
            (APPLICATION_ID, FORMAT) => Ok(()),
            (APPLICATION_ID, _) => {
                let detail = format!("its format is {format}, this program knows format {FORMAT}");
                Err(open_error(&self.path, &detail))
            }
            (0, 0) if tables == 0 => {
                let sql = format!(
                    "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
                );
                self.connection.execute_batch(&sql).map_err(failed)
            }
            _ => Err(open_error(&self.path, &"it is a database of another program")),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let failed = |error: rusqlite::Error| opening(&self.path, &error);
        let answer: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
        if answer == "ok" { Ok(()) } else { Err(corrupt(&self.path, &answer)) }
    }
}

/// A transaction that holds everything of a batch; it is rolled back unless committed.
pub(crate) struct Pending<'a> {
    transaction: Transaction<'a>,
    path: &'a Path,
}

impl Pending<'_> {
    pub(crate) fn commit(self) -> Result<(), Error> {
        self.transaction.commit().map_err(|error| writing(self.path, &error))
    }
}

/// A second connection, which only reads values.
pub(crate) struct DiskReader {
    connection: Connection,
    path: PathBuf,
}

impl DiskReader {
    pub(crate) fn open(path: &Path) -> Result<DiskReader, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let prepared = Connection::open_with_flags(path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch("PRAGMA cache_size = -256; PRAGMA trusted_schema = OFF;")?;
            Ok(connection)
        });
        let connection = prepared.map_err(|error| reading(path, &error))?;
        Ok(DiskReader { connection, path: path.to_owned() })
    }

    /// As [`Disk::value`].
    pub(crate) fn value(
        &self,
        created: Revision,
        modified: Revision,
    ) -> Result<Option<Bytes>, Error> {
        read_value(&self.connection, &self.path, created, modified)
    }
}

fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // SQLite gives its other files the mode of this one.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    Ok(())
}

/// Two processes with one file would each believe its own memory.
fn lock(path: &Path) -> Result<File, Error> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(suffixed(path, "-lock"))
        .map_err(|error| open_error(path, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(open_error(path, &error)),
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn apply(transaction: &Transaction<'_>, event: &Event) -> rusqlite::Result<()> {
    let entry = &event.entry;
    let (id, modified, value) = (signed(entry.created), signed(entry.modified), &*entry.value);
    match (event.kind, &event.previous) {
        (EventKind::Put, None) => transaction
            .prepare_cached(
                "INSERT INTO entries (id, key, modified, value) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, &*entry.key, modified, value])?,
        (EventKind::Put, Some(_)) => transaction
            .prepare_cached("UPDATE entries SET modified = ?2, value = ?3 WHERE id = ?1")?
            .execute(params![id, modified, value])?,
        (EventKind::Delete, _) => {
            transaction.prepare_cached("DELETE FROM entries WHERE id = ?1")?.execute([id])?
        }
    };
    Ok(())
}

/// One small step of giving free pages back to the file system.
fn give_back(transaction: &Transaction<'_>, kept: i64) -> rusqlite::Result<()> {
    let number = |sql: &str| -> rusqlite::Result<i64> {
        transaction.prepare_cached(sql)?.query_row([], |row| row.get(0))
    };
    let free = number("PRAGMA freelist_count")?;
    if free > kept && (kept == 0 || free > number("PRAGMA page_count")? / 4) {
        // Each step of the statement gives back one page.
        let mut statement =
            transaction.prepare(&format!("PRAGMA incremental_vacuum({FREE_PAGES_STEP})"))?;
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(())
}

fn entry_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        created: row.get::<_, i64>(0)?.unsigned_abs(),
        key: row.get_ref(1)?.as_str()?.into(),
        modified: row.get::<_, i64>(2)?.unsigned_abs(),
        value: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
    })
}

fn read_value(
    connection: &Connection,
    path: &Path,
    created: Revision,
    modified: Revision,
) -> Result<Option<Bytes>, Error> {
    connection
        .prepare_cached("SELECT value FROM entries WHERE id = ?1 AND modified = ?2")
        .and_then(|mut statement| {
            let ids = [signed(created), signed(modified)];
            statement
                .query_row(ids, |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)))
                .optional()
        })
        .map_err(|error| reading(path, &error))
}

/// SQLite's integers are signed; revisions do not reach the sign in the life of a board.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn opening(path: &Path, error: &rusqlite::Error) -> Error {
    classified(path, error).unwrap_or_else(|| open_error(path, error))
}

fn open_error(path: &Path, detail: &dyn std::fmt::Display) -> Error {
    Error::Open { path: path.to_owned(), detail: text(detail) }
}

fn reading(path: &Path, error: &rusqlite::Error) -> Error {
    classified(path, error)
        .unwrap_or_else(|| Error::Read { path: path.to_owned(), detail: text(error) })
}

fn writing(path: &Path, error: &rusqlite::Error) -> Error {
    classified(path, error)
        .unwrap_or_else(|| Error::Write { path: path.to_owned(), detail: text(error) })
}

fn corrupt(path: &Path, detail: &dyn std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), detail: text(detail) }
}

/// The failures that mean the same whatever was being done.
fn classified(path: &Path, error: &rusqlite::Error) -> Option<Error> {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Some(Error::Full { place: text(&path.display()), detail: text(error) })
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Some(corrupt(path, error)),
        Some(_) => None,
        // A column of the wrong type.
        None => Some(corrupt(path, error)),
    }
}

fn text(detail: &dyn std::fmt::Display) -> Arc<str> {
    detail.to_string().into()
}
