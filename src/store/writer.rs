//! The one thread that writes.
//!
//! It takes all writes that wait, decides them one after the other against the memory and each other, puts the durable
//! ones into one transaction, commits it with one fsync, makes the changes visible, and only then answers. If the
//! commit fails nothing of the batch has happened; when space has run out, the writes are tried again one by one, so
//! that those that need none, or free some, get through.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::options::{BATCH_BYTES_MAX, BATCH_WRITES_MAX};
use crate::state::{Row, Shared};
use crate::{Durability, Entry, Error, Event, EventKind, Expect, NewValue, Options, Revision};

/// Revisions reserved on the disk at a time. At one memory-only write a second, an idle node writes to the disk for
/// them every twelve days.
const RESERVE_REVISIONS: Revision = 1 << 20;
/// What a value may grow by and still be written on a full disk: marking something for deletion takes a few bytes.
const GROWTH_BYTES_MAX: usize = 1024;

pub(crate) enum Command {
    Write(Write),
    Close { reply: oneshot::Sender<()> },
}

pub(crate) struct Write {
    pub(crate) key: Arc<str>,
    pub(crate) expect: Expect,
    /// `None` deletes.
    pub(crate) value: Option<NewValue>,
    pub(crate) reply: oneshot::Sender<Result<Event, Error>>,
}

impl Write {
    fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.bytes.len())
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    durability: fn(&str) -> Durability,
    memory_bytes_max: usize,
    /// The last revision given to a write, successful or not.
    last: Revision,
    /// Revisions up to this one are safe to give out.
    reserved: Revision,
}

/// What a batch would do.
#[derive(Default)]
struct Plan {
    /// Changes, and whether each goes to the file.
    changes: Vec<(Event, bool)>,
    /// Keys changed by this batch, with what they hold after it.
    pending: HashMap<Arc<str>, Option<Entry>>,
    /// Growth and shrinking of the bytes of memory-only entries.
    memory_added: usize,
    memory_freed: usize,
}

impl Writer {
    /// `last` is the highest revision ever given out, as far as the file knows.
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Option<Disk>,
        options: &Options,
        last: Revision,
    ) -> Writer {
        // Without a file nothing outlives the process, so nothing needs to be reserved.
        let reserved = if disk.is_some() { last } else { Revision::MAX };
        Writer {
            shared,
            disk,
            durability: options.durability,
            memory_bytes_max: options.memory_bytes_max,
            last,
            reserved,
        }
    }

    /// Works until told to close, or until nobody can send any more.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = queue.blocking_recv() else { break };
            let mut batch = Vec::new();
            closing = gather(first, &mut queue, &mut batch);
            self.commit(&batch).into_iter().zip(batch).for_each(|(answer, write)| {
                // The one who asked may have gone.
                write.reply.send(answer).ok();
            });
        }
        self.finish();
        if let Some(reply) = closing {
            reply.send(()).ok();
        }
    }

    fn commit(&mut self, batch: &[Write]) -> Vec<Result<Event, Error>> {
        match self.attempt(batch) {
            Ok(answers) => answers,
            Err(Error::Full { .. }) => batch.iter().map(|write| self.squeeze(write)).collect(),
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Writes on a full disk: what does not make the file grow may use the spare space.
    fn squeeze(&mut self, write: &Write) -> Result<Event, Error> {
        let alone = std::slice::from_ref(write);
        let mut answers = self.attempt(alone);
        if matches!(answers, Err(Error::Full { .. })) && !self.grows(write) {
            if let Some(disk) = &mut self.disk {
                disk.use_spare();
            }
            answers = self.attempt(alone);
        }
        answers?.pop().ok_or(Error::Closed)?
    }

    fn grows(&self, write: &Write) -> bool {
        let Some(value) = &write.value else { return false };
        let size = self.shared.read().size(&write.key);
        size.is_none_or(|size| value.bytes.len() > size + GROWTH_BYTES_MAX)
    }

    /// Does all of a batch, or nothing of it.
    fn attempt(&mut self, batch: &[Write]) -> Result<Vec<Result<Event, Error>>, Error> {
        let mut plan = Plan::default();
        let answers = batch.iter().map(|write| self.decide(write, &mut plan)).collect();
        self.store(plan.changes)?;
        Ok(answers)
    }

    /// Decides one write against the memory and the writes before it in the batch.
    fn decide(&mut self, write: &Write, plan: &mut Plan) -> Result<Event, Error> {
        let current = match plan.pending.get(&write.key) {
            Some(pending) => pending.clone(),
            None => self.current(&write.key)?,
        };
        let agrees = match write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Modified(revision) => {
                current.as_ref().is_some_and(|entry| entry.modified == revision)
            }
        };
        if !agrees || (write.value.is_none() && current.is_none()) {
            return Err(Error::Conflict { current });
        }
        let revision = self.last + 1;
        let event = event(write, current, revision);
        let durable = self.disk.is_some() && (self.durability)(&write.key) == Durability::Durable;
        if !durable {
            self.account(&event, plan)?;
        } else if self.grows(write) && !self.disk.as_mut().is_some_and(Disk::may_grow) {
            return Err(Error::Full {
                place: event.entry.key,
                detail: "the disk is full, only deletions and small changes are possible".into(),
            });
        }
        self.last = revision;
        let after = (event.kind == EventKind::Put).then(|| event.entry.clone());
        plan.pending.insert(event.entry.key.clone(), after);
        plan.changes.push((event.clone(), durable));
        Ok(event)
    }

    /// Refuses growth of the memory-only entries over their bound.
    fn account(&self, event: &Event, plan: &mut Plan) -> Result<(), Error> {
        let size = |entry: &Entry| entry.key.len() + entry.value.len();
        let freed = event.previous.as_ref().map_or(0, size);
        let added = if event.kind == EventKind::Put { size(&event.entry) } else { 0 };
        let held = self.shared.read().memory_bytes() + plan.memory_added + added;
        if added > freed && held > self.memory_bytes_max + plan.memory_freed + freed {
            return Err(Error::Full {
                place: event.entry.key.clone(),
                detail: format!("entries in memory may hold {} bytes", self.memory_bytes_max)
                    .into(),
            });
        }
        plan.memory_added += added;
        plan.memory_freed += freed;
        Ok(())
    }

    fn current(&self, key: &str) -> Result<Option<Entry>, Error> {
        let row = self.shared.read().find(key);
        let Some(row) = row else { return Ok(None) };
        let value = match &row.value {
            Some(value) => value.clone(),
            None => self.read_back(&row)?,
        };
        Ok(Some(row.with(value)))
    }

    fn read_back(&self, row: &Row) -> Result<Bytes, Error> {
        // Only entries that are in the file lose their value in memory, and only this thread changes the file.
        let disk = self.disk.as_ref().ok_or(Error::Closed)?;
        disk.value(row.created, row.modified)?.ok_or_else(|| Error::Corrupt {
            path: disk.path().to_owned(),
            detail: format!("the row of {} is missing", row.key).into(),
        })
    }

    /// Commits changes to the file, then makes them visible.
    fn store(&mut self, changes: Vec<(Event, bool)>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let reserve = (self.last > self.reserved).then(|| self.last + RESERVE_REVISIONS);
        let in_file = reserve.is_some() || changes.iter().any(|(_, durable)| *durable);
        let woken = match &mut self.disk {
            Some(disk) if in_file => {
                let durable =
                    changes.iter().filter(|(_, durable)| *durable).map(|(event, _)| event);
                let pending = disk.write(durable, reserve)?;
                let _gate = self.shared.gate();
                pending.commit()?;
                self.reserved = reserve.unwrap_or(self.reserved);
                self.shared.write().publish(changes)
            }
            _ => self.shared.write().publish(changes),
        };
        woken.iter().for_each(|subscriber| subscriber.wake());
        Ok(())
    }

    fn finish(self) {
        let mut state = self.shared.write();
        state.closed = true;
        state.topics.wake_all();
        drop(state);
        let Some(disk) = self.disk else { return };
        let path = disk.path().to_owned();
        let unused = (self.reserved > self.last).then_some(self.last);
        if let Err(error) = disk.close(unused) {
            tracing::warn!(path = %path.display(), %error, "database is not closed cleanly, nothing is lost");
        }
    }
}

/// Takes what waits behind `first`, up to the bounds of a batch; stops at the command to close.
fn gather(
    first: Command,
    queue: &mut mpsc::Receiver<Command>,
    batch: &mut Vec<Write>,
) -> Option<oneshot::Sender<()>> {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            Command::Close { reply } => return Some(reply),
            Command::Write(write) => {
                bytes += write.size();
                batch.push(write);
            }
        }
        let room = batch.len() < BATCH_WRITES_MAX && bytes < BATCH_BYTES_MAX;
        next = if room { queue.try_recv().ok() } else { None };
    }
    None
}

fn event(write: &Write, previous: Option<Entry>, revision: Revision) -> Event {
    let created = previous.as_ref().map_or(revision, |previous| previous.created);
    let (kind, value) = match &write.value {
        Some(value) => (EventKind::Put, stamped(value, revision)),
        None => (EventKind::Delete, Bytes::new()),
    };
    // An existing key is shared, not stored again.
    let key = previous.as_ref().map_or(&write.key, |previous| &previous.key).clone();
    Event { kind, entry: Entry { key, value, created, modified: revision }, previous }
}

/// The value with its revision in it. Always a copy of its own: the bytes that came in may be a small part of a large
/// buffer, which would live as long as the entry.
fn stamped(value: &NewValue, revision: Revision) -> Bytes {
    let Some(offset) = value.stamp else { return Bytes::copy_from_slice(&value.bytes) };
    let (before, after) = value.bytes.split_at(offset.min(value.bytes.len()));
    let digits = revision.to_string();
    let mut whole = BytesMut::with_capacity(value.bytes.len() + digits.len());
    whole.extend_from_slice(before);
    whole.extend_from_slice(digits.as_bytes());
    whole.extend_from_slice(after);
    whole.freeze()
}
