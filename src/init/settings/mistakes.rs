//! What is wrong in the owner's file, where; shown on the console and as events of the Node.

use std::fmt;

/// More mistakes than this are counted, not shown.
const SHOWN_MAX: usize = 20;

/// A position in a file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One mistake. Never holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// None when it concerns the file as a whole.
    at: Option<Place>,
    /// Of keys, such as `network[0].address`; empty when none can be told.
    path: String,
    text: String,
}

impl Mistake {
    pub(crate) fn new(at: Place, path: &str, text: &str) -> Mistake {
        Mistake { at: Some(at), path: path.to_owned(), text: text.to_owned() }
    }

    /// Of a key that may not stand in the file at all.
    pub(crate) fn of_key(at: Option<Place>, path: &str, text: &str) -> Mistake {
        Mistake { at, path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn of_file(text: String) -> Mistake {
        Mistake { at: None, path: String::new(), text }
    }

    /// The same, of this key unless it names one.
    pub(crate) fn within(self, key: &str) -> Mistake {
        let path = if self.path.is_empty() { key.to_owned() } else { self.path };
        Mistake { path, ..self }
    }

    /// The mistake with the name of its file in front: `copepod.yaml:3:7: role: expected ...`.
    pub(crate) fn line(&self, file: &str) -> String {
        match self.at {
            Some(Place { line, column }) => format!("{file}:{line}:{column}: {self}"),
            None => format!("{file}: {self}"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.text)
    }
}

/// The lines to show, with a last one for those that are left out.
pub(crate) fn shown(mistakes: &[Mistake], file: &str) -> Vec<String> {
    let mut mistakes: Vec<&Mistake> = mistakes.iter().collect();
    mistakes.sort_by_key(|mistake| mistake.at);
    let mut lines: Vec<String> =
        mistakes.iter().take(SHOWN_MAX).map(|mistake| mistake.line(file)).collect();
    if let Some(first) = mistakes.get(SHOWN_MAX) {
        let text = format!("{} more mistakes begin here", mistakes.len() - SHOWN_MAX);
        lines.push(Mistake { at: first.at, ..Mistake::of_file(text) }.line(file));
    }
    lines
}
