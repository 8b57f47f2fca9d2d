//! The key `registries`: the content of K3s' registries.yaml, checked here so that a slip in it cannot stop the node.

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
    /// Fixed keys.
    Keys(&'static [(&'static str, Shape)]),
}

const SHAPE: Shape = Shape::Keys(&[
    (
        "mirrors",
        Shape::Members(&Shape::Keys(&[
            ("endpoint", Shape::Addresses),
            ("endpoints", Shape::Addresses),
            ("rewrite", Shape::Members(&Shape::Text)),
        ])),
    ),
    (
        "configs",
        Shape::Members(&Shape::Keys(&[
            (
                "auth",
                Shape::Keys(&[
                    ("username", Shape::Text),
                    ("password", Shape::Text),
                    ("auth", Shape::Text),
                    ("identity_token", Shape::Text),
                ]),
            ),
            (
                "tls",
                Shape::Keys(&[
                    ("ca_file", Shape::Text),
                    ("cert_file", Shape::Text),
                    ("key_file", Shape::Text),
                    ("insecure_skip_verify", Shape::Switch),
                ]),
            ),
        ])),
    ),
]);

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
            Some(field.list(web_address, mistakes).into_iter().map(Value::String).collect())
        }
        Shape::Members(inner) => {
            let members = field.members(mistakes);
            let values = members.iter().filter_map(|(key, member)| {
                shaped(inner, member, mistakes).map(|value| ((*key).to_owned(), value))
            });
            Some(Value::Object(values.collect()))
        }
        Shape::Keys(rows) => {
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
            Some(Value::Object(map))
        }
    }
}
