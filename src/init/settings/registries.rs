//! The key `registries`: the content of K3s' registries.yaml, checked here so that a slip in it cannot stop the node.
//! Every rule of the node's own reading is here too: a test of the root package compares them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::field::Field;
use super::mistakes::Mistake;
use super::values::{switch, web_address};

/// What may stand in a place of the file.
enum Shape {
    Text,
    Switch,
    /// Of http or https.
    Addresses,
    /// Free keys, every value of one shape.
    Members(&'static Shape),
    /// Fixed keys, and what they must be together.
    Keys(&'static [(&'static str, Shape)], Together),
}

type Together = fn(&Map<String, Value>) -> Result<(), &'static str>;

/// Addresses of one mirror.
const ENDPOINTS_MAX: usize = 32;

const SHAPE: Shape =
    Shape::Keys(&[("mirrors", Shape::Members(&MIRROR)), ("configs", Shape::Members(&CONFIG))], any);

const MIRROR: Shape = Shape::Keys(
    &[("endpoint", Shape::Addresses), ("endpoints", Shape::Addresses)],
    |map| match map.len() {
        0 | 1 => Ok(()),
        _ => Err("has endpoint and endpoints, which mean the same; it is left out"),
    },
);

const CONFIG: Shape = Shape::Keys(&[("auth", AUTH), ("tls", TLS)], any);

const AUTH: Shape = Shape::Keys(
    &[
        ("username", Shape::Text),
        ("password", Shape::Text),
        ("auth", Shape::Text),
        ("identity_token", Shape::Text),
    ],
    |map| {
        let encoded = map.get("auth").and_then(Value::as_str).unwrap_or_default();
        let decoded =
            STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if !encoded.is_empty() && !decoded.is_some_and(|text| text.contains(':')) {
            return Err("has an auth that is not base64 of username:password; it is left out");
        }
        both(map, "username", "password").ok_or("has username or password alone; it is left out")
    },
);

const TLS: Shape = Shape::Keys(
    &[
        ("ca_file", Shape::Text),
        ("cert_file", Shape::Text),
        ("key_file", Shape::Text),
        ("insecure_skip_verify", Shape::Switch),
    ],
    |map| {
        both(map, "cert_file", "key_file").ok_or("has cert_file or key_file alone; it is left out")
    },
);

fn any(_: &Map<String, Value>) -> Result<(), &'static str> {
    Ok(())
}

/// Something when both are there or neither.
fn both(map: &Map<String, Value>, one: &str, other: &str) -> Option<()> {
    (map.contains_key(one) == map.contains_key(other)).then_some(())
}

/// The file's content as JSON, which is YAML too; None when nothing of it is left.
pub(crate) fn read(field: &Field<'_>, mistakes: &mut Vec<Mistake>) -> Option<String> {
    match shaped(&SHAPE, field, mistakes)? {
        Value::Object(map) if map.is_empty() => None,
        value => Some(value.to_string()),
    }
}

fn shaped(shape: &Shape, field: &Field<'_>, mistakes: &mut Vec<Mistake>) -> Option<Value> {
    match shape {
        Shape::Text => field.text(mistakes).map(Value::String),
        Shape::Switch => field.parsed(switch, mistakes).map(Value::Bool),
        Shape::Addresses => {
            let mut addresses = field.list(web_address, mistakes);
            if addresses.len() > ENDPOINTS_MAX {
                addresses.truncate(ENDPOINTS_MAX);
                field.wrong(
                    &format!("only the first {ENDPOINTS_MAX} addresses are taken"),
                    mistakes,
                );
            }
            Some(addresses.into_iter().map(Value::String).collect())
        }
        Shape::Members(inner) => {
            let members = field.members(mistakes);
            let values = members.iter().filter_map(|(key, member)| {
                shaped(inner, member, mistakes).map(|value| ((*key).to_owned(), value))
            });
            Some(Value::Object(values.collect()))
        }
        Shape::Keys(rows, together) => {
            let mut map = Map::new();
            for (key, member) in field.members(mistakes) {
                match rows.iter().find(|(name, _)| *name == key) {
                    Some((_, inner)) => {
                        let value = shaped(inner, &member, mistakes);
                        map.extend(value.map(|value| (key.to_owned(), value)));
                    }
                    None => {
                        let known: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
                        member.wrong(
                            &format!("is no setting; there are {}", known.join(", ")),
                            mistakes,
                        );
                    }
                }
            }
            match together(&map) {
                Ok(()) => Some(Value::Object(map)),
                Err(text) => {
                    field.wrong(text, mistakes);
                    None
                }
            }
        }
    }
}
