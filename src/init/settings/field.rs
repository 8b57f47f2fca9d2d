//! Walking the tree: a value with the path of its key, asked for as text, list, switch or mapping.

use super::mistakes::{Mistake, Place};
use super::tree::{Content, Entry, Node};

/// Items of one list that are read.
const ITEMS_MAX: usize = 64;

/// A value and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Field<'tree> {
    pub(crate) path: String,
    pub(crate) node: &'tree Node,
}

/// A key and what is done with its value.
pub(crate) type Row<T> = (&'static str, fn(&mut T, &Field<'_>, &mut Vec<Mistake>));

/// Fills `target` from a mapping by a table of its keys; a key that is not in the table is a mistake.
pub(crate) fn read<T>(
    target: &mut T,
    rows: &[&[Row<T>]],
    parent: &str,
    entries: &[Entry],
    mistakes: &mut Vec<Mistake>,
) {
    for entry in entries {
        let path = join(parent, &entry.key);
        let mut all = rows.iter().copied().flatten();
        match all.find(|(name, _)| *name == entry.key) {
            Some((_, apply)) => apply(target, &Field { path, node: &entry.value }, mistakes),
            None => {
                let known: Vec<&str> = rows.iter().copied().flatten().map(|row| row.0).collect();
                let text = format!("is no setting; there are {}", known.join(", "));
                mistakes.push(Mistake::new(entry.at, &path, &text));
            }
        }
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

impl Field<'_> {
    pub(crate) fn at(&self) -> Place {
        self.node.at
    }

    /// Notes what is wrong with this value.
    pub(crate) fn wrong(&self, text: &str, mistakes: &mut Vec<Mistake>) {
        mistakes.push(Mistake::new(self.at(), &self.path, text));
    }

    fn unexpected(&self, expected: &str, mistakes: &mut Vec<Mistake>) {
        self.wrong(&format!("expected {expected}, found {}", self.node.kind()), mistakes);
    }

    /// The text, if there is a value and it is one.
    pub(crate) fn text(&self, mistakes: &mut Vec<Mistake>) -> Option<String> {
        match &self.node.content {
            Content::Text(text) => Some(text.clone()),
            Content::Nothing => None,
            Content::List(_) | Content::Map(_) => {
                self.unexpected("text", mistakes);
                None
            }
        }
    }

    /// The text as `parse` understands it; its error says what was expected.
    pub(crate) fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, String>,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<T> {
        match parse(&self.text(mistakes)?) {
            Ok(value) => Some(value),
            Err(text) => {
                self.wrong(&text, mistakes);
                None
            }
        }
    }

    /// The good items of a list; a single value is a list of one.
    pub(crate) fn list<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<T> {
        let items = self.items(mistakes);
        items.iter().filter_map(|item| item.parsed(&parse, mistakes)).collect()
    }

    /// The items of a list; anything else but nothing is a list of one.
    pub(crate) fn items(&self, mistakes: &mut Vec<Mistake>) -> Vec<Field<'_>> {
        match &self.node.content {
            Content::Nothing => Vec::new(),
            Content::List(items) => {
                if items.len() > ITEMS_MAX {
                    self.wrong(&format!("only the first {ITEMS_MAX} items are read"), mistakes);
                }
                let named = items.iter().take(ITEMS_MAX).enumerate();
                named.map(|(i, node)| Field { path: format!("{}[{i}]", self.path), node }).collect()
            }
            Content::Text(_) | Content::Map(_) => vec![self.clone()],
        }
    }

    pub(crate) fn entries(&self, mistakes: &mut Vec<Mistake>) -> &[Entry] {
        match &self.node.content {
            Content::Map(entries) => entries,
            Content::Nothing => &[],
            Content::Text(_) | Content::List(_) => {
                self.unexpected("a mapping", mistakes);
                &[]
            }
        }
    }

    /// The values of a mapping whose keys are free.
    pub(crate) fn members(&self, mistakes: &mut Vec<Mistake>) -> Vec<(&str, Field<'_>)> {
        let entries = self.entries(mistakes).iter();
        entries
            .map(|Entry { key, value, .. }| {
                (key.as_str(), Field { path: join(&self.path, key), node: value })
            })
            .collect()
    }
}
