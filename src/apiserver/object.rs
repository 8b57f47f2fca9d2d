//! Objects as JSON values: their metadata, and the encoded form in which they are stored.
//!
//! The stored text of an object begins with `{"kind":K,"apiVersion":V,"metadata":{"resourceVersion":"` and the revision,
//! so the revision is found and replaced without reading the rest.

use api::{Resource, Status};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use store::{NewValue, Revision};

/// The text member at a path of field names, or "".
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, field| value.get(field))
}

/// The object at a path; what is missing or null on the way becomes an empty object. `None` where something else stands.
pub(crate) fn object_mut<'a>(
    object: &'a mut Value,
    path: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    let mut value = object;
    for field in path {
        value = value.as_object_mut()?.entry(*field).or_insert(Value::Null);
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
    }
    value.as_object_mut()
}

pub(crate) fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    if let Some((last, parents)) = path.split_last()
        && let Some(map) = object_mut(object, parents)
    {
        map.insert((*last).to_owned(), value.into());
    }
}

pub(crate) fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut value = object;
    for field in parents {
        value = value.get_mut(field)?;
    }
    value.as_object_mut()?.remove(*last)
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, &["metadata", "deletionTimestamp"]).is_empty()
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    strings(at(object, &["metadata", "finalizers"]))
}

/// The strings of an array.
pub(crate) fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Reads a stored object.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|e| Status::internal(format!("stored object is unreadable: {e}")))
}

/// The text before the revision.
fn head(res: &Resource) -> String {
    format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"resourceVersion":""#,
        res.kind,
        res.api_version()
    )
}

/// The resource in whose form objects of `res` are stored: the core group's Event stands for both.
pub(crate) fn storage_form(res: &'static Resource) -> &'static Resource {
    if res.storage_group == res.group {
        return res;
    }
    api::find(res.storage_group, "v1", res.plural).unwrap_or(res)
}

/// Encodes an object so that the store can put its revision in.
pub(crate) fn encode(res: &'static Resource, object: &Value) -> Result<NewValue, Status> {
    let mut out = head(storage_form(res)).into_bytes();
    let stamp = Some(out.len());
    out.push(b'"');
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let metadata = map.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    members(&mut out, metadata, true, &["resourceVersion", "managedFields", "selfLink"])?;
    out.push(b'}');
    members(&mut out, map, true, &["kind", "apiVersion", "metadata"])?;
    out.push(b'}');
    Ok(NewValue { bytes: out.into(), stamp })
}

fn members(
    out: &mut Vec<u8>,
    map: &Map<String, Value>,
    mut comma: bool,
    without: &[&str],
) -> Result<(), Status> {
    for (key, value) in map.iter().filter(|(key, _)| !without.contains(&key.as_str())) {
        if comma {
            out.push(b',');
        }
        comma = true;
        let written = serde_json::to_writer(&mut *out, key).and_then(|()| {
            out.push(b':');
            serde_json::to_writer(&mut *out, value)
        });
        written.map_err(|e| Status::internal(format!("cannot encode object: {e}")))?;
    }
    Ok(())
}

/// Whether `new` says the same as the stored bytes, the revision aside.
pub(crate) fn same(new: &NewValue, stored: &[u8]) -> bool {
    let stamp = new.stamp.unwrap_or_default();
    let (Some(head), Some(tail)) = (stored.get(..stamp), stored.get(stamp..)) else { return false };
    let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    new.bytes.get(..stamp) == Some(head) && new.bytes.get(stamp..) == tail.get(digits..)
}

/// The stored bytes with another revision: how the last state of a deleted object is told.
pub(crate) fn restamp(res: &'static Resource, stored: &Bytes, revision: Revision) -> Bytes {
    let stamp = head(storage_form(res)).len();
    let Some(tail) = stored.get(stamp..) else { return stored.clone() };
    let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut out = BytesMut::with_capacity(stored.len() + 4);
    out.extend_from_slice(stored.get(..stamp).unwrap_or_default());
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(tail.get(digits..).unwrap_or_default());
    out.freeze()
}

/// Letters of generated names: no vowels, no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `count` random characters for a generated name.
pub(crate) fn random_suffix(count: usize) -> Result<String, Status> {
    let bytes = random_bytes(count)?;
    Ok(bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect())
}

pub(crate) fn random_bytes(count: usize) -> Result<Vec<u8>, Status> {
    use ring::rand::SecureRandom;
    let mut bytes = vec![0u8; count];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Status::internal("the system gave no random numbers"))?;
    Ok(bytes)
}

/// A random UUID (version 4).
pub(crate) fn new_uid() -> Result<String, Status> {
    use std::fmt::Write;
    let mut bytes = random_bytes(16)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}
