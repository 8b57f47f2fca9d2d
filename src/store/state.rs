//! What is in memory: the ordered index of all keys, the change log, and who watches what.
//!
//! Only the writer thread changes it (and the readers, who put values read back from the file into the cache), always
//! under the write lock and for a short time; readers copy out handles under the read lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::history::History;
use crate::key::Range;
use crate::watch::{Subscriber, Topics};
use crate::{Entry, Error, Event, EventKind, Options, Revision};

/// Entries that one eviction looks at, so that a write never waits long for it.
const EVICT_VISITS_MAX: usize = 16_384;

/// The state with its lock, and the gate between the file and the memory.
pub(crate) struct Shared {
    state: RwLock<State>,
    /// Held by the writer from before the commit in the file until the change is in memory. Who has seen something in
    /// the file that the memory does not know passes this gate to be sure to find it there.
    gate: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Shared> {
        Arc::new(Shared { state: RwLock::new(state), gate: Mutex::new(()) })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry whose value may have to be read back from the file.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) key: Arc<str>,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) value: Option<Bytes>,
}

impl Row {
    pub(crate) fn with(self, value: Bytes) -> Entry {
        Entry { key: self.key, value, created: self.created, modified: self.modified }
    }
}

/// A page whose values may have to be read back.
pub(crate) struct Draft {
    pub(crate) rows: Vec<Row>,
    pub(crate) revision: Revision,
    pub(crate) remaining: u64,
}

type Bounds = (Bound<Arc<str>>, Bound<Arc<str>>);

/// For each key that changed: what it held before, if anything.
type Undone<'a> = BTreeMap<&'a Arc<str>, Option<&'a Entry>>;

enum Found<'a> {
    Now(&'a Arc<str>, &'a Slot),
    Then(&'a Entry),
}

impl Found<'_> {
    fn row(self) -> Row {
        match self {
            Found::Now(key, slot) => slot.row(key),
            Found::Then(entry) => Row {
                key: entry.key.clone(),
                created: entry.created,
                modified: entry.modified,
                value: Some(entry.value.clone()),
            },
        }
    }
}

struct Slot {
    created: Revision,
    modified: Revision,
    size: usize,
    /// `None` while it is only in the file.
    value: Option<Bytes>,
    durable: bool,
    /// Read since the eviction last passed.
    used: AtomicBool,
}

impl Slot {
    fn row(&self, key: &Arc<str>) -> Row {
        Row {
            key: key.clone(),
            created: self.created,
            modified: self.modified,
            value: self.value.clone(),
        }
    }
}

pub(crate) struct State {
    index: BTreeMap<Arc<str>, Slot>,
    pub(crate) history: History,
    pub(crate) topics: Topics,
    /// Bytes of durable values in memory.
    cached_bytes: usize,
    cache_bytes_max: usize,
    /// Bytes of keys and values of memory-only entries.
    memory_bytes: usize,
    /// Where the eviction goes on.
    hand: Option<Arc<str>>,
    pub(crate) closed: bool,
}

impl State {
    pub(crate) fn new(start: Revision, options: &Options) -> State {
        State {
            index: BTreeMap::new(),
            history: History::new(start, options),
            topics: Topics::default(),
            cached_bytes: 0,
            cache_bytes_max: options.cache_bytes_max,
            memory_bytes: 0,
            hand: None,
            closed: false,
        }
    }

    /// The same entries with an empty change log that starts at a revision.
    pub(crate) fn starting_at(self, start: Revision, options: &Options) -> State {
        State { history: History::new(start, options), ..self }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The length of the value of a key.
    pub(crate) fn size(&self, key: &str) -> Option<usize> {
        self.index.get(key).map(|slot| slot.size)
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Takes up an entry that is in the file; its value is kept while the cache has room.
    pub(crate) fn load(&mut self, entry: Entry) {
        let size = entry.value.len();
        let fits = self.cached_bytes + size <= self.cache_bytes_max;
        let slot = Slot {
            created: entry.created,
            modified: entry.modified,
            size,
            value: fits.then_some(entry.value),
            durable: true,
            used: AtomicBool::new(false),
        };
        self.cached_bytes += if fits { size } else { 0 };
        self.index.insert(entry.key, slot);
    }

    pub(crate) fn find(&self, key: &str) -> Option<Row> {
        let (key, slot) = self.index.get_key_value(key)?;
        slot.used.store(true, Ordering::Relaxed);
        Some(slot.row(key))
    }

    /// The value that `key` had from the write at `modified` on, if it is in memory.
    pub(crate) fn value_at(&self, key: &str, modified: Revision) -> Option<Bytes> {
        if let Some(slot) = self.index.get(key).filter(|slot| slot.modified == modified) {
            return slot.value.clone();
        }
        let mut replaced = self.history.after(modified).filter_map(|event| event.previous.as_ref());
        replaced
            .find(|old| old.modified == modified && &*old.key == key)
            .map(|old| old.value.clone())
    }

    /// A part of a range, as it is or as it was at a revision that the change log still reaches.
    pub(crate) fn page(
        &self,
        range: &Range,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Draft, Error> {
        let revision = at.unwrap_or(self.history.last());
        self.history.check(revision)?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        let undone = self.undo(range, revision);
        if undone.is_empty() {
            // The usual case, and counting what remains is much faster without looking at the entries.
            let mut rest = self.index.range(range.bounds(after));
            let rows = rest.by_ref().take(limit).map(|(key, slot)| slot.row(key)).collect();
            return Ok(Draft { rows, revision, remaining: rest.count() as u64 });
        }
        let mut rest = self.rows(range.bounds(after), &undone);
        let rows = rest.by_ref().take(limit).map(Found::row).collect();
        Ok(Draft { rows, revision, remaining: rest.count() as u64 })
    }

    /// What the keys of a range that changed after `revision` held then.
    fn undo(&self, range: &Range, revision: Revision) -> Undone<'_> {
        let mut undone = Undone::new();
        for event in self.history.after(revision).filter(|event| range.contains(&event.entry.key)) {
            undone.entry(&event.entry.key).or_insert(event.previous.as_ref());
        }
        undone
    }

    /// The current state, with `undone` in place of what it mentions.
    fn rows<'a>(
        &'a self,
        bounds: Bounds,
        undone: &'a Undone<'a>,
    ) -> impl Iterator<Item = Found<'a>> {
        let (start, end) = (bounds.0.as_ref(), bounds.1.as_ref());
        let mut now = self.index.range::<Arc<str>, _>((start, end)).peekable();
        let mut then = undone.range::<Arc<str>, _>((start, end)).peekable();
        std::iter::from_fn(move || {
            loop {
                let changed = match (now.peek(), then.peek()) {
                    (Some((key, _)), Some((changed, _))) => *changed <= key,
                    (_, changed) => changed.is_some(),
                };
                if !changed {
                    return now.next().map(|(key, slot)| Found::Now(key, slot));
                }
                let (key, previous) = then.next()?;
                now.next_if(|(current, _)| current == key);
                if let Some(previous) = previous {
                    return Some(Found::Then(previous));
                }
            }
        })
    }

    /// Makes changes visible; the subscribers returned have something to read that had nothing before.
    pub(crate) fn publish(&mut self, changes: Vec<(Event, bool)>) -> Vec<Arc<Subscriber>> {
        let mut woken = Vec::new();
        for (event, durable) in changes {
            self.apply(&event, durable);
            self.topics.mark(&event.entry.key, event.entry.modified, &mut woken);
            self.history.push(event);
        }
        self.evict();
        woken
    }

    fn apply(&mut self, event: &Event, durable: bool) {
        let entry = &event.entry;
        let old = match event.kind {
            EventKind::Delete => self.index.remove(&entry.key),
            EventKind::Put => {
                let size = entry.value.len();
                *self.bytes_of(durable) += if durable { size } else { entry.key.len() + size };
                let slot = Slot {
                    created: entry.created,
                    modified: entry.modified,
                    size,
                    value: Some(entry.value.clone()),
                    durable,
                    used: AtomicBool::new(false),
                };
                self.index.insert(entry.key.clone(), slot)
            }
        };
        if let Some(old) = old {
            let cached = if old.value.is_some() { old.size } else { 0 };
            *self.bytes_of(old.durable) -=
                if old.durable { cached } else { entry.key.len() + old.size };
        }
    }

    fn bytes_of(&mut self, durable: bool) -> &mut usize {
        if durable { &mut self.cached_bytes } else { &mut self.memory_bytes }
    }

    /// Keeps a value that was read back, if the key still has it.
    pub(crate) fn keep(&mut self, key: &str, modified: Revision, value: &Bytes) {
        let Some(slot) = self.index.get_mut(key) else { return };
        if slot.modified != modified || slot.value.is_some() {
            return;
        }
        slot.value = Some(value.clone());
        slot.used.store(true, Ordering::Relaxed);
        self.cached_bytes += slot.size;
        self.evict();
    }

    /// Forgets values that are in the file until the cache is within its bound: round and round in key order, giving
    /// those that were read since the last round a second chance.
    fn evict(&mut self) {
        let mut visits = 0;
        while self.cached_bytes > self.cache_bytes_max && visits < EVICT_VISITS_MAX {
            visits += 1;
            let start = self.hand.take().map_or(Bound::Unbounded, Bound::Excluded);
            for (key, slot) in self.index.range_mut::<Arc<str>, _>((start, Bound::Unbounded)) {
                visits += 1;
                if slot.durable && slot.value.is_some() && !slot.used.swap(false, Ordering::Relaxed)
                {
                    slot.value = None;
                    self.cached_bytes -= slot.size;
                }
                if self.cached_bytes <= self.cache_bytes_max || visits >= EVICT_VISITS_MAX {
                    self.hand = Some(key.clone());
                    break;
                }
            }
        }
    }
}
