//! The handle that everybody holds.

use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::key::{Range, check_key};
use crate::options::{VALUE_BYTES_MAX, WRITE_QUEUE_MAX};
use crate::reader::{READ_VALUES_MAX, Reader};
use crate::state::{Row, Shared, State};
use crate::writer::{Command, Write, Writer};
use crate::{
    Durability, Entry, Error, Event, Expect, ListOptions, NewValue, Options, Page, Revision, Watch,
};

/// How often a read starts over because what it found changed while it read from the file.
const READ_ATTEMPTS_MAX: usize = 16;

/// A store of revisioned keys. Clones share the same store; it closes with the last of them.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Command>,
    /// Absent if there is no file.
    reader: Option<Reader>,
}

impl Store {
    /// Opens or creates the store and starts its writer thread.
    pub fn open(options: Options) -> Result<Store, Error> {
        let mut disk = match &options.path {
            Some(path) => Some(Disk::open(path, options.disk_bytes_max)?),
            None => None,
        };
        let (state, last) = load(&mut disk, &options)?;
        let shared = Shared::new(state);
        let reader = options.path.clone().map(|path| Reader::new(path, shared.clone()));
        let writer = Writer::new(shared.clone(), disk, &options, last);
        let (sender, queue) = mpsc::channel(WRITE_QUEUE_MAX);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| Error::Open {
                path: options.path.unwrap_or_default(),
                detail: format!("no writer thread: {error}").into(),
            })?;
        Ok(Store { inner: Arc::new(Inner { shared, writer: sender, reader }) })
    }

    /// The revision of the last write that readers can see.
    pub fn revision(&self) -> Revision {
        self.inner.shared.read().history.last()
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        check_key(key)?;
        for _ in 0..READ_ATTEMPTS_MAX {
            let Some(row) = self.find(key)? else { return Ok(None) };
            if let Some(value) = row.value.clone() {
                return Ok(Some(row.with(value)));
            }
            let reader = self.reader()?;
            let values = reader.read(vec![(row.created, row.modified)]).await?;
            if let Some(value) = values.into_iter().next().flatten() {
                self.inner.shared.write().keep(key, row.modified, &value);
                return Ok(Some(row.with(value)));
            }
        }
        Err(self.unsteady())
    }

    /// Lists a range: all keys below `prefix` if it ends with "/", else the one key.
    pub async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, Error> {
        let range = Range::new(prefix)?;
        let after = options.after.as_deref();
        for _ in 0..READ_ATTEMPTS_MAX {
            let draft = {
                let state = self.inner.shared.read();
                if state.closed {
                    return Err(Error::Closed);
                }
                state.page(&range, after, options.limit, options.at)?
            };
            if let Some(entries) = self.complete(draft.rows).await? {
                return Ok(Page { entries, revision: draft.revision, remaining: draft.remaining });
            }
        }
        Err(self.unsteady())
    }

    /// Writes a value; the answer comes when it is durable and visible. Dropping the future does not undo the write.
    pub async fn put(&self, key: &str, expect: Expect, value: NewValue) -> Result<Entry, Error> {
        check_key(key)?;
        let size = value.bytes.len();
        if size > VALUE_BYTES_MAX {
            return Err(Error::TooLarge { key: key.into(), size, limit: VALUE_BYTES_MAX });
        }
        if let Some(offset) = value.stamp.filter(|offset| *offset > size) {
            return Err(Error::InvalidStamp { key: key.into(), offset, size });
        }
        Ok(self.send(key, expect, Some(value)).await?.entry)
    }

    /// Deletes a key; answers with its last entry and the revision of the deletion.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        check_key(key)?;
        let event = self.send(key, expect, None).await?;
        let last = event.previous.ok_or(Error::Conflict { current: None })?;
        Ok((last, event.entry.modified))
    }

    /// All changes to a range (see [`Store::list`]) with a revision greater than `after`.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        Watch::new(self.inner.shared.clone(), Range::new(prefix)?, after)
    }

    /// Ends the store: finishes the writes that wait, ends all watches, and leaves one checkpointed file.
    pub async fn close(self) {
        if let Some(reader) = &self.inner.reader {
            reader.close().await;
        }
        let (reply, closed) = oneshot::channel();
        // An error means that it is closed already.
        if self.inner.writer.send(Command::Close { reply }).await.is_ok() {
            closed.await.ok();
        }
    }

    async fn send(
        &self,
        key: &str,
        expect: Expect,
        value: Option<NewValue>,
    ) -> Result<Event, Error> {
        let (reply, answer) = oneshot::channel();
        let write = Write { key: key.into(), expect, value, reply };
        self.inner.writer.send(Command::Write(write)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn find(&self, key: &str) -> Result<Option<Row>, Error> {
        let state = self.inner.shared.read();
        if state.closed { Err(Error::Closed) } else { Ok(state.find(key)) }
    }

    fn reader(&self) -> Result<&Reader, Error> {
        // Without a file no value ever leaves the memory.
        self.inner.reader.as_ref().ok_or(Error::Closed)
    }

    /// Reads back the values that are missing. `None` if one of them is in neither the file nor the memory any more.
    async fn complete(&self, mut rows: Vec<Row>) -> Result<Option<Vec<Entry>>, Error> {
        let missing: Vec<usize> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.value.is_none())
            .map(|(at, _)| at)
            .collect();
        for part in missing.chunks(READ_VALUES_MAX) {
            let wanted = part.iter().map(|&at| (rows[at].created, rows[at].modified)).collect();
            let values = self.reader()?.read(wanted).await?;
            let state = self.inner.shared.read();
            for (&at, value) in part.iter().zip(values) {
                let row = &mut rows[at];
                row.value = value.or_else(|| state.value_at(&row.key, row.modified));
            }
        }
        let entries = rows.into_iter().map(|mut row| row.value.take().map(|value| row.with(value)));
        Ok(entries.collect())
    }

    fn unsteady(&self) -> Error {
        let path = self.inner.reader.as_ref().map(|reader| reader.path().to_owned());
        Error::Read {
            path: path.unwrap_or_default(),
            detail: "values changed faster than they were read".into(),
        }
    }
}

/// Takes up what the file holds. The start revision is above everything that was ever given out, so that nobody can
/// mistake a watch from before for one that misses nothing: what was only in memory is gone.
fn load(disk: &mut Option<Disk>, options: &Options) -> Result<(State, Revision), Error> {
    let Some(disk) = disk else { return Ok((State::new(1, options), 1)) };
    let mut entries = State::new(0, options);
    let mut newest = 0;
    let mut strays = Vec::new();
    let path = disk.path().to_owned();
    if options.skip_revisions > 0 {
        disk.skip(options.skip_revisions)?;
    }
    let reserved = disk.load(|entry| {
        newest = newest.max(entry.modified);
        if (options.durability)(&entry.key) == Durability::Memory {
            strays.push(entry.created);
        } else if entries.contains(&entry.key) {
            let detail = format!("{} is there twice", entry.key).into();
            return Err(Error::Corrupt { path: path.clone(), detail });
        } else {
            entries.load(entry);
        }
        Ok(())
    })?;
    if !strays.is_empty() {
        disk.remove(&strays)?;
    }
    let start = reserved.max(newest) + 1;
    Ok((entries.starting_at(start, options), start))
}
