//! A view of a range of the store, brought up to date whenever somebody looks: between two looks it costs nothing, and
//! a look shows every write that was answered before it.

use crate::answer::Result;
use crate::registry::store_error;
use futures_util::FutureExt;
use store::{Entry, Event, EventKind, ListOptions, Store, Watch};

/// What is kept of the entries of a range.
pub(crate) trait View: Default + Send {
    fn put(&mut self, entry: &Entry);
    fn delete(&mut self, key: &str);
}

pub(crate) struct Follower<V> {
    store: Store,
    range: String,
    state: tokio::sync::Mutex<State<V>>,
}

#[derive(Default)]
struct State<V> {
    view: V,
    /// Absent before the first look and after the watch fell behind.
    watch: Option<Watch>,
}

impl<V: View> Follower<V> {
    pub(crate) fn new(store: Store, range: String) -> Self {
        Self { store, range, state: tokio::sync::Mutex::default() }
    }

    /// Asks the view as it is now.
    pub(crate) async fn look<T>(&self, ask: impl FnOnce(&V) -> T) -> Result<T> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        if !drain(&mut state.watch, &mut state.view)? {
            let page = self.store.list(&self.range, ListOptions::default()).await;
            let page = page.map_err(|e| store_error(&e))?;
            state.view = V::default();
            page.entries.iter().for_each(|entry| state.view.put(entry));
            let watch = self.store.watch(&self.range, page.revision);
            state.watch = Some(watch.map_err(|e| store_error(&e))?);
        }
        Ok(ask(&state.view))
    }
}

/// Applies what waits in the watch; false if there is no watch that knows everything.
fn drain<V: View>(watch: &mut Option<Watch>, view: &mut V) -> Result<bool> {
    let Some(changes) = watch else { return Ok(false) };
    // Changes that are there come without waiting.
    while let Some(events) = changes.next().now_or_never() {
        match events {
            Ok(events) => events.iter().for_each(|event| apply(view, event)),
            Err(store::Error::Lagged) => {
                *watch = None;
                return Ok(false);
            }
            Err(error) => return Err(store_error(&error)),
        }
    }
    Ok(true)
}

fn apply<V: View>(view: &mut V, event: &Event) {
    match event.kind {
        EventKind::Put => view.put(&event.entry),
        EventKind::Delete => view.delete(&event.entry.key),
    }
}
