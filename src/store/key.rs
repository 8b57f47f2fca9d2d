//! Keys and the ranges of keys that can be listed and watched.

use std::ops::Bound;
use std::sync::Arc;

use crate::Error;
use crate::options::KEY_BYTES_MAX;

/// The byte after "/": with it in the last place, a prefix becomes the end of its range.
const AFTER_SLASH: char = '0';

/// All keys below a prefix that ends with "/", or exactly one key.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    name: Arc<str>,
    below: bool,
}

impl Range {
    pub(crate) fn new(prefix: &str) -> Result<Range, Error> {
        let below = prefix.ends_with('/');
        check(prefix.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(prefix), below)?;
        Ok(Range { name: prefix.into(), below })
    }

    /// What [`ranges_of`] yields for the keys in this range.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        if self.below { key.starts_with(&*self.name) } else { key == &*self.name }
    }

    /// The bounds of this range in key order, starting behind `after`.
    pub(crate) fn bounds(&self, after: Option<&str>) -> (Bound<Arc<str>>, Bound<Arc<str>>) {
        let start = match after {
            Some(after) if after >= &*self.name => Bound::Excluded(after.into()),
            _ => Bound::Included(self.name.clone()),
        };
        let end = match self.name.strip_suffix('/') {
            Some(rest) if self.below => Bound::Excluded(format!("{rest}{AFTER_SLASH}").into()),
            _ => Bound::Included(self.name.clone()),
        };
        // A map panics on bounds that are the wrong way round.
        let empty = match (&start, &end) {
            (Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => start >= end,
            _ => false,
        };
        if empty {
            return (Bound::Included(self.name.clone()), Bound::Excluded(self.name.clone()));
        }
        (start, end)
    }
}

/// The names of all ranges that hold `key`: each prefix that ends with "/", and the key itself.
pub(crate) fn ranges_of(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at]).chain(std::iter::once(key))
}

pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    check(key, false)
}

fn check(key: &str, root_allowed: bool) -> Result<(), Error> {
    let reason = if !key.starts_with('/') {
        "it must start with \"/\""
    } else if key.ends_with('/') && !root_allowed {
        "it must not end with \"/\""
    } else if key.contains('\0') {
        "it must not contain a zero byte"
    } else if key.len() > KEY_BYTES_MAX {
        "it is too long"
    } else {
        return Ok(());
    };
    let shown = key.chars().take(KEY_BYTES_MAX).collect();
    Err(Error::InvalidKey { key: shown, reason })
}
