//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

use crate::patch_error::PatchError;

/// Most operations of one JSON patch.
const OPERATIONS_MAX: usize = 10_000;
/// Most array elements and object fields that copy operations may add in one patch.
const COPIED_MAX: usize = 100_000;

/// Null deletes, objects merge, everything else replaces.
pub fn json_merge(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            merge_object(target, patch);
            Ok(())
        }
        _ => Err(PatchError::Malformed("a merge patch must be an object".to_owned())),
    }
}

fn merge_object(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key.clone()).or_insert(Value::Null);
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    merge_object(slot, inner);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// Applies the operations in order; on an error `target` is as far as the operations before it went.
pub fn json_patch(target: &mut Value, operations: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = operations else {
        return Err(PatchError::Malformed("a JSON patch must be a list of operations".to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        let got = operations.len();
        let text = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {got}"
        );
        return Err(PatchError::Malformed(text));
    }
    let mut copied = 0;
    operations.iter().try_for_each(|operation| apply(target, operation, &mut copied))
}

fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or_default();
    let Some(path) = text("path") else {
        return Err(PatchError::Malformed(format!("{kind} operation has no path")));
    };
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(target, path, value(), kind),
        "remove" => remove(target, path, kind).map(drop),
        "replace" => {
            *lookup_mut(target, path).ok_or_else(|| missing(kind, "key", path))? = value();
            Ok(())
        }
        "move" | "copy" => {
            let from = text("from")
                .ok_or_else(|| PatchError::Malformed(format!("{kind} operation has no from")))?;
            let found = match kind {
                "move" => remove(target, from, kind)?,
                _ => {
                    lookup(target, from).cloned().ok_or_else(|| missing(kind, "from path", from))?
                }
            };
            *copied += if kind == "copy" { count(&found) } else { 0 };
            match *copied > COPIED_MAX {
                true => Err(PatchError::Malformed(format!(
                    "copy operations add more than {COPIED_MAX} values"
                ))),
                false => add(target, path, found, kind),
            }
        }
        "test" => match lookup(target, path).unwrap_or(&Value::Null)
            == operation.get("value").unwrap_or(&Value::Null)
        {
            true => Ok(()),
            false => {
                Err(PatchError::Unprocessable(format!("testing value {path} failed: test failed")))
            }
        },
        other => Err(PatchError::Malformed(format!("unexpected kind: {other}"))),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

fn missing(kind: &str, what: &str, path: &str) -> PatchError {
    PatchError::Unprocessable(format!(
        "{kind} operation does not apply: doc is missing {what}: {path}: missing value"
    ))
}

fn bad_index(kind: &str, path: &str, index: &str) -> PatchError {
    PatchError::Unprocessable(format!(
        "error in {kind} for path: '{path}': Unable to access invalid index: {index}: invalid index referenced"
    ))
}

/// The parent's pointer and the unescaped last segment.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn lookup<'a>(target: &'a Value, path: &str) -> Option<&'a Value> {
    target.pointer(path)
}

fn lookup_mut<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    target.pointer_mut(path)
}

fn add(target: &mut Value, path: &str, value: Value, kind: &str) -> Result<(), PatchError> {
    let Some((parent, last)) = split(path) else {
        return match path {
            "" => {
                *target = value;
                Ok(())
            }
            path => Err(missing(kind, "path", path)),
        };
    };
    match lookup_mut(target, parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let index = match last.as_str() {
                "-" => Some(items.len()),
                number => index_of(number),
            };
            match index.filter(|&i| i <= items.len()) {
                Some(index) => {
                    items.insert(index, value);
                    Ok(())
                }
                None => Err(bad_index(kind, path, &last)),
            }
        }
        _ => Err(missing(kind, "path", path)),
    }
}

fn index_of(text: &str) -> Option<usize> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

fn remove(target: &mut Value, path: &str, kind: &str) -> Result<Value, PatchError> {
    let Some((parent, last)) = split(path) else {
        return Err(missing(kind, "path", path));
    };
    match lookup_mut(target, parent) {
        Some(Value::Object(fields)) => fields.remove(&last).ok_or_else(|| {
            let text = format!("error in {kind} for path: '{path}': unable to remove nonexistent key: {last}: missing value");
            PatchError::Unprocessable(text)
        }),
        Some(Value::Array(items)) => match index_of(&last).filter(|&i| i < items.len()) {
            Some(index) => Ok(items.remove(index)),
            None => Err(bad_index(kind, path, &last)),
        },
        _ => Err(missing(kind, "path", path)),
    }
}
