//! The OpenAPI v2 document in gnostic's protobuf form, which clients of upstream's Go library ask for.
//!
//! A table says which number each JSON key has in its message; one function writes any message by it. Keys that begin with
//! `x-` are vendor extensions, whose values travel as YAML, which JSON is.

use serde_json::{Map, Value};

/// A message: its keys, the number of its vendor extensions (0: it has none), and what its other keys stand for.
struct Message {
    keys: &'static [(&'static str, u64, Form)],
    extensions: u64,
    others: Option<(u64, Form)>,
}

/// How a value is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Anything, as YAML.
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// In field 1 of a message of its own, where a flag would be field 2.
    Choice(&'static Message),
    /// A message with the texts in field 1.
    Type,
    /// Which message it is depends on where the parameter is.
    Parameters,
}

use Form::{Any, Anys, Choice, Flag, Integer, Many, Number, One, Parameters, Text, Texts};

static DOCUMENT: Message = Message {
    keys: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("host", 3, Text),
        ("basePath", 4, Text),
        ("schemes", 5, Texts),
        ("consumes", 6, Texts),
        ("produces", 7, Texts),
        ("paths", 8, One(&PATHS)),
        ("definitions", 9, One(&SCHEMAS)),
    ],
    extensions: 16,
    others: None,
};

static INFO: Message = Message {
    keys: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)],
    extensions: 7,
    others: None,
};

static PATHS: Message = Message { keys: &[], extensions: 1, others: Some((2, One(&PATH_ITEM))) };

static PATH_ITEM: Message = Message {
    keys: &[
        ("$ref", 1, Text),
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
    others: None,
};

static OPERATION: Message = Message {
    keys: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, One(&RESPONSES)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
    others: None,
};

static RESPONSES: Message =
    Message { keys: &[], extensions: 2, others: Some((1, Choice(&RESPONSE))) };

static RESPONSE: Message = Message {
    keys: &[("description", 1, Text), ("schema", 2, Choice(&SCHEMA))],
    extensions: 5,
    others: None,
};

static BODY_PARAMETER: Message = Message {
    keys: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
    others: None,
};

static QUERY_PARAMETER: Message = Message {
    keys: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("allowEmptyValue", 5, Flag),
        ("type", 6, Text),
        ("format", 7, Text),
        ("collectionFormat", 9, Text),
        ("pattern", 17, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
    others: None,
};

/// Of a path or a header, which have the same numbers.
static PATH_PARAMETER: Message = Message {
    keys: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("collectionFormat", 8, Text),
        ("pattern", 16, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
    others: None,
};

static SCHEMAS: Message = Message { keys: &[], extensions: 0, others: Some((1, One(&SCHEMA))) };

static SCHEMA: Message = Message {
    keys: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, Choice(&SCHEMA)),
        ("type", 22, Form::Type),
        ("items", 23, Choice(&SCHEMA)),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, One(&SCHEMAS)),
        ("discriminator", 26, Text),
        ("readOnly", 27, Flag),
        ("example", 30, Any),
    ],
    extensions: 31,
    others: None,
};

/// The bytes of a document such as [`openapi_v2`](crate::openapi_v2) makes.
pub fn openapi_v2_protobuf(document: &Value) -> Vec<u8> {
    encode(document).0
}

/// The bytes, and the keys that have no place in them.
fn encode(document: &Value) -> (Vec<u8>, Vec<String>) {
    let mut writer = Writer { bytes: Vec::new(), unknown: Vec::new() };
    if let Value::Object(document) = document {
        writer.message(&DOCUMENT, document);
    }
    (writer.bytes, writer.unknown)
}

struct Writer {
    bytes: Vec<u8>,
    unknown: Vec<String>,
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;

impl Writer {
    fn message(&mut self, message: &Message, object: &Map<String, Value>) {
        for (key, value) in object {
            let known = message.keys.iter().find(|(name, ..)| name == key);
            if let Some((_, number, form)) = known {
                self.value(*number, *form, value);
            } else if message.extensions != 0 && key.starts_with("x-") {
                self.nested(message.extensions, |writer| writer.named(key, Any, value));
            } else if let Some((number, form)) = message.others {
                self.nested(number, |writer| writer.named(key, form, value));
            } else {
                self.unknown.push(key.clone());
            }
        }
    }

    /// An entry of what is a map in JSON.
    fn named(&mut self, key: &str, form: Form, value: &Value) {
        self.text(1, key);
        self.value(2, form, value);
    }

    fn value(&mut self, number: u64, form: Form, value: &Value) {
        match (form, value) {
            (Text, Value::String(text)) => self.text(number, text),
            (Flag, Value::Bool(true)) => {
                self.tag(number, VARINT);
                self.varint(1);
            }
            (Integer, Value::Number(value)) => {
                self.tag(number, VARINT);
                self.varint(value.as_u64().unwrap_or_default());
            }
            (Number, Value::Number(value)) => {
                self.tag(number, FIXED64);
                let bytes = value.as_f64().unwrap_or_default().to_le_bytes();
                self.bytes.extend_from_slice(&bytes);
            }
            (Any, value) => self.nested(number, |writer| writer.text(2, &format!("{value}\n"))),
            (One(message), Value::Object(object)) => {
                self.nested(number, |writer| writer.message(message, object));
            }
            (Choice(_), Value::Bool(_)) => {
                self.nested(number, |writer| writer.value(2, Flag, value));
            }
            (Choice(message), Value::Object(_)) => {
                self.nested(number, |writer| writer.value(1, One(message), value));
            }
            (Form::Type, value) => self.nested(number, |writer| match value {
                Value::Array(_) => writer.value(1, Texts, value),
                value => writer.value(1, Text, value),
            }),
            (form, Value::Array(items)) => {
                for item in items {
                    self.item(number, form, item);
                }
            }
            _ => {}
        }
    }

    fn item(&mut self, number: u64, form: Form, item: &Value) {
        match form {
            Texts => self.value(number, Text, item),
            Anys => self.value(number, Any, item),
            Many(message) => self.value(number, One(message), item),
            Parameters => self.nested(number, |writer| {
                // A parameter, not a reference to one; then its kind, and among those without a body its place.
                writer.nested(1, |writer| match item["in"].as_str() {
                    Some("body") => writer.value(1, One(&BODY_PARAMETER), item),
                    place => writer.nested(2, |writer| match place {
                        Some("header") => writer.value(1, One(&PATH_PARAMETER), item),
                        Some("path") => writer.value(4, One(&PATH_PARAMETER), item),
                        _ => writer.value(3, One(&QUERY_PARAMETER), item),
                    }),
                });
            }),
            _ => {}
        }
    }

    /// A message within this one. Its length goes before it, so it is moved by the length's length.
    fn nested(&mut self, number: u64, write: impl FnOnce(&mut Self)) {
        self.tag(number, LENGTH);
        let start = self.bytes.len();
        write(self);
        let end = self.bytes.len();
        self.varint((end - start) as u64);
        let length = self.bytes.len() - end;
        self.bytes[start..].rotate_right(length);
    }

    fn text(&mut self, number: u64, text: &str) {
        if !text.is_empty() {
            self.tag(number, LENGTH);
            self.varint(text.len() as u64);
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    fn tag(&mut self, number: u64, wire: u64) {
        self.varint(number << 3 | wire);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests;
