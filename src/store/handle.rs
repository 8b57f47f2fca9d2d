//! The handle that everybody holds.

use crate::{Entry, Error, Expect, ListOptions, NewValue, Options, Page, Revision, Watch};

/// A store of revisioned keys. Clones share the same store.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens or creates the store and starts its writer thread.
    pub fn open(_options: Options) -> Result<Store, Error> {
        todo!()
    }

    /// The revision of the last write that readers can see.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    pub async fn get(&self, _key: &str) -> Result<Option<Entry>, Error> {
        todo!()
    }

    /// Lists a range: all keys below `prefix` if it ends with "/", else the one key.
    pub async fn list(&self, _prefix: &str, _options: ListOptions) -> Result<Page, Error> {
        todo!()
    }

    /// Writes a value; the answer comes when it is durable and visible.
    pub async fn put(&self, _key: &str, _expect: Expect, _value: NewValue) -> Result<Entry, Error> {
        todo!()
    }

    /// Deletes a key; answers with its last entry and the revision of the deletion.
    pub async fn delete(&self, _key: &str, _expect: Expect) -> Result<(Entry, Revision), Error> {
        todo!()
    }

    /// All changes to a range (see [`Store::list`]) with a revision greater than `after`.
    pub fn watch(&self, _prefix: &str, _after: Revision) -> Result<Watch, Error> {
        todo!()
    }

    /// Ends the store: finishes the writes that wait, ends all watches, and leaves one checkpointed file.
    pub async fn close(self) {
        todo!()
    }
}
