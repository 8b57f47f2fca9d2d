//! Bytes to JSON: strict, bounded, with the position of what is wrong and the paths of duplicate fields.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of objects and arrays that is accepted.
pub const DEPTH_MAX: usize = 96;
/// Duplicate fields that are reported; more are dropped.
const DUPLICATES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON; the text says where.
    #[error("{0}")]
    Syntax(String),
    /// A field holds another type than it must; the text names field, found and expected.
    #[error("{0}")]
    WrongType(String),
}

/// The value and the duplicate fields, as `duplicate field "metadata.name"`. The last of the duplicates wins.
pub fn decode(body: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    let mut state = State { path: String::new(), duplicates: Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Seed { state: &mut state, depth: 0 }
        .deserialize(&mut deserializer)
        .map_err(|e| syntax(&e))?;
    deserializer.end().map_err(|e| syntax(&e))?;
    Ok((value, state.duplicates))
}

fn syntax(error: &serde_json::Error) -> DecodeError {
    DecodeError::Syntax(error.to_string())
}

struct State {
    path: String,
    duplicates: Vec<String>,
}

struct Seed<'a> {
    state: &'a mut State,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(serde::de::Error::custom(format_args!(
                "exceeded max depth of {DEPTH_MAX}"
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let length = self.state.path.len();
        loop {
            self.state.path.push_str(&format!("[{}]", items.len()));
            let item = seq.next_element_seed(Seed { state: self.state, depth: self.depth + 1 })?;
            self.state.path.truncate(length);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let length = self.state.path.len();
        while let Some(key) = map.next_key::<String>()? {
            if length > 0 {
                self.state.path.push('.');
            }
            self.state.path.push_str(&key);
            if fields.contains_key(&key) && self.state.duplicates.len() < DUPLICATES_MAX {
                self.state.duplicates.push(format!("duplicate field {:?}", self.state.path));
            }
            let value = map.next_value_seed(Seed { state: self.state, depth: self.depth + 1 })?;
            self.state.path.truncate(length);
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}
