//! The objects of a file: YAML documents between lines of `---`, or JSON, each with the line it begins at.

use serde_json::Value;

/// Objects that one file may hold.
pub(crate) const OBJECTS_MAX: usize = 1024;

/// Metadata that only the server writes.
const SERVERS_OWN: [&str; 6] =
    ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

/// An object as a file gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// Line of the file where its document begins, counted from 1.
    pub(crate) line: usize,
    pub(crate) object: Value,
}

/// What is wrong with a file, and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub(crate) struct Mistake {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Reads all objects of a file; lists are taken apart. One mistake refuses the file, so that half of a file which is being
/// written is not taken for all of it.
pub(crate) fn read(text: &str) -> Result<Vec<Document>, Mistake> {
    let mut documents = Vec::new();
    for (line, text) in parts(text) {
        let Some(value) = parse(line, &text)? else { continue };
        unfold(line, value, &mut documents)?;
        if documents.len() > OBJECTS_MAX {
            let text = format!("more than {OBJECTS_MAX} objects in one file");
            return Err(Mistake { line, text });
        }
    }
    Ok(documents)
}

/// The documents' texts and first lines.
fn parts(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        let is_separator = line.strip_prefix("---").is_some_and(is_blank);
        match parts.last_mut() {
            Some((_, part)) if !is_separator => {
                part.push_str(line);
                part.push('\n');
            }
            _ => parts.push((index + 2, String::new())),
        }
    }
    parts.retain(|(_, part)| part.lines().any(|line| !is_blank(line)));
    parts
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn parse(line: usize, text: &str) -> Result<Option<Value>, Mistake> {
    // Modes such as 0644 are octal for kubectl, and manifests are full of them.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(Value::Null) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let within = error.location().map_or(1, |at| at.line().max(1));
            let within = usize::try_from(within).unwrap_or(1);
            let text = error.without_snippet().to_string();
            // It counts the lines of the document, we those of the file.
            let text = text.split(" at line ").next().unwrap_or_default();
            Err(Mistake { line: line + within - 1, text: format!("not YAML: {text}") })
        }
    }
}

fn unfold(line: usize, mut value: Value, documents: &mut Vec<Document>) -> Result<(), Mistake> {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    if let (true, Some(Value::Array(items))) = (is_list, value.get_mut("items")) {
        let items = std::mem::take(items);
        return items.into_iter().try_for_each(|item| unfold(line, item, documents));
    }
    check(&value).map_err(|text| Mistake { line, text })?;
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.retain(|key, _| !SERVERS_OWN.contains(&key.as_str()));
    }
    documents.push(Document { line, object: value });
    Ok(())
}

fn check(object: &Value) -> Result<(), String> {
    let found = |value: &Value| match value {
        Value::Null => "nothing".to_owned(),
        other => other.to_string().chars().take(40).collect(),
    };
    if !object.is_object() {
        return Err(format!(
            "expected an object with apiVersion and kind, found {}",
            found(object)
        ));
    }
    let mut places = vec!["/apiVersion", "/kind", "/metadata/name"];
    if object.pointer("/metadata/namespace").is_some_and(|namespace| !namespace.is_null()) {
        places.push("/metadata/namespace");
    }
    for place in places {
        let value = object.pointer(place).unwrap_or(&Value::Null);
        if value.as_str().is_none_or(str::is_empty) {
            let field = place.trim_start_matches('/').replace('/', ".");
            return Err(format!("{field}: expected a text, found {}", found(value)));
        }
    }
    Ok(())
}
