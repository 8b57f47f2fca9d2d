//! YAML as a tree in which everything knows its line and column, so that mistakes can be shown where they are.
//!
//! Of a file that is no YAML as a whole, each block that begins in the first column is read alone: one slip costs one
//! key. Anchors and aliases are not for settings and are refused.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::mistakes::{Mistake, Place};

/// Lists and mappings inside each other; settings need four.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// No value, `null` or `~`.
    Nothing,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Place,
    pub(crate) value: Node,
}

impl Node {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.content {
            Content::Nothing => "nothing",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }
}

/// The entries of a file that is a mapping, and what is wrong with its form.
pub(crate) fn parse(text: &str) -> (Vec<Entry>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    match document(text, 0, &mut mistakes) {
        Ok(entries) => (entries, mistakes),
        Err(_) => {
            mistakes.clear();
            let mut entries = Vec::new();
            for (first_line, block) in blocks(text) {
                match document(&block, first_line, &mut mistakes) {
                    Ok(found) => join(&mut entries, found, &mut mistakes),
                    Err(mistake) => {
                        let key = block.split_once(':').map_or("", |(key, _)| key);
                        mistakes.push(mistake.within(key.lines().next().unwrap_or_default()));
                    }
                }
            }
            (entries, mistakes)
        }
    }
}

/// Cuts a text before every line that begins with a letter, digit or quote; gives the number of lines before each part.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let begins = |line: &str| line.starts_with(|c: char| c.is_alphanumeric() || "\"'".contains(c));
    let mut blocks: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if blocks.is_empty() || begins(line) {
            blocks.push((index, String::new()));
        }
        if let Some((_, block)) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

fn join(entries: &mut Vec<Entry>, more: Vec<Entry>, mistakes: &mut Vec<Mistake>) {
    for entry in more {
        if entries.iter().any(|known| known.key == entry.key) {
            mistakes.push(Mistake::new(
                entry.at,
                &entry.key,
                "is given twice; the first one holds",
            ));
        } else {
            entries.push(entry);
        }
    }
}

fn document(text: &str, lines: usize, notes: &mut Vec<Mistake>) -> Result<Vec<Entry>, Mistake> {
    let mut reader = Reader { parser: Parser::new_from_str(text), lines, notes };
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(Vec::new()),
            event => {
                let node = reader.node(event, span, 0)?;
                let at = node.at;
                reader.end()?;
                return match node.content {
                    Content::Map(entries) => Ok(entries),
                    Content::Nothing => Ok(Vec::new()),
                    Content::Text(_) | Content::List(_) => {
                        let text = format!("expected a line `key: value`, found {}", node.kind());
                        Err(Mistake::new(at, "", &text))
                    }
                };
            }
        }
    }
}

struct Reader<'text, 'notes, T: serde_saphyr::granit_parser::BorrowedInput<'text>> {
    parser: Parser<'text, T>,
    /// Lines of the file before this text.
    lines: usize,
    notes: &'notes mut Vec<Mistake>,
}

impl<'text, T: serde_saphyr::granit_parser::BorrowedInput<'text>> Reader<'text, '_, T> {
    fn next(&mut self) -> Result<(Event<'text>, Span), Mistake> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(found)) => return Ok(found),
                Some(Err(error)) => return Err(self.scan(&error)),
                None => {
                    let at = Place { line: self.lines + 1, column: 1 };
                    return Err(Mistake::new(at, "", "the file ends too early"));
                }
            }
        }
    }

    /// What stands behind the document has to be YAML too.
    fn end(&mut self) -> Result<(), Mistake> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentEnd, _) => {}
                (_, span) => {
                    return Err(Mistake::new(
                        self.place(span),
                        "",
                        "a second document is not read",
                    ));
                }
            }
        }
    }

    fn scan(&self, error: &ScanError) -> Mistake {
        let marker = error.marker();
        let at = Place { line: self.lines + marker.line(), column: marker.col() + 1 };
        Mistake::new(at, "", &format!("this is not YAML: {}", error.kind()))
    }

    fn place(&self, span: Span) -> Place {
        Place { line: self.lines + span.start.line(), column: span.start.col() + 1 }
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, Mistake> {
        let at = self.place(span);
        if depth > DEPTH_MAX {
            return Err(Mistake::new(at, "", "nested too deeply"));
        }
        let content = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if is_nothing(&text) => Content::Nothing,
            Event::Scalar(text, ..) => Content::Text(text.into_owned()),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            _ => return Err(Mistake::new(at, "", "aliases are not read here")),
        };
        Ok(Node { at, content })
    }

    fn list(&mut self, depth: usize) -> Result<Content, Mistake> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Content, Mistake> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let at = self.place(span);
            let key = match event {
                Event::MappingEnd => return Ok(Content::Map(entries)),
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(Mistake::new(at, "", "expected a key")),
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            join(&mut entries, vec![Entry { key, at, value }], self.notes);
        }
    }
}

fn is_nothing(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
