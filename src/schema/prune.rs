//! Makes a decoded object what a typed decoder would have kept: unknown fields are taken out and named, wrong types
//! are refused with field, found and expected type, quantities and times get their canonical text, and fields that are
//! null or empty without meaning are dropped.

use api::Quantity;
use serde_json::{Map, Value};

use crate::decode::DecodeError;
use crate::facts::{Field, Shape, Type, type_at};

/// Unknown fields that are reported; all are dropped.
const UNKNOWN_MAX: usize = 64;

/// The unknown fields, as `unknown field "spec.foo"`.
pub fn prune(ty: &Type, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut pruner = Pruner { path: String::new(), unknown: Vec::new() };
    pruner.object(ty, object)?;
    Ok(pruner.unknown)
}

struct Pruner {
    path: String,
    unknown: Vec<String>,
}

impl Pruner {
    fn object(&mut self, ty: &Type, value: &mut Value) -> Result<(), DecodeError> {
        let Value::Object(fields) = value else {
            return Err(self.wrong(ty.short_name(), value, &ty.go_name()));
        };
        let mut gone: Vec<String> = Vec::new();
        for (name, inner) in fields.iter_mut() {
            let length = self.push(name);
            match ty.field(name) {
                None => {
                    if self.unknown.len() < UNKNOWN_MAX {
                        self.unknown.push(format!("unknown field {:?}", self.path));
                    }
                    gone.push(name.clone());
                }
                Some(_) if inner.is_null() => gone.push(name.clone()),
                Some(field) => {
                    self.value(ty, &field.shape, inner)?;
                    if is_dropped(field, inner) {
                        gone.push(name.clone());
                    }
                }
            }
            self.path.truncate(length);
        }
        for name in gone {
            fields.remove(&name);
        }
        Ok(())
    }

    fn value(&mut self, owner: &Type, shape: &Shape, value: &mut Value) -> Result<(), DecodeError> {
        match shape {
            Shape::Object(index) => match value {
                Value::Object(_) => self.object(type_at(*index), value),
                _ => Err(self.wrong(owner.short_name(), value, &shape.go_name())),
            },
            Shape::List(item) => self.list(owner, shape, item, value),
            Shape::Map(item) => self.map(owner, shape, item, value),
            Shape::Quantity => self.quantity(owner, value),
            Shape::Time | Shape::MicroTime => self.time(owner, shape, value),
            Shape::Bytes => self.bytes(owner, value),
            scalar if fits(scalar, value) => Ok(()),
            scalar => Err(self.wrong(owner.short_name(), value, &scalar.go_name())),
        }
    }

    fn list(
        &mut self,
        owner: &Type,
        shape: &Shape,
        item: &Shape,
        value: &mut Value,
    ) -> Result<(), DecodeError> {
        let Value::Array(items) = value else {
            return Err(self.wrong(owner.short_name(), value, &shape.go_name()));
        };
        for (i, inner) in items.iter_mut().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{i}]"));
            if inner.is_null() {
                *inner = zero(item);
            }
            self.value(owner, item, inner)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(
        &mut self,
        owner: &Type,
        shape: &Shape,
        item: &Shape,
        value: &mut Value,
    ) -> Result<(), DecodeError> {
        let Value::Object(items) = value else {
            return Err(self.wrong(owner.short_name(), value, &shape.go_name()));
        };
        for (key, inner) in items.iter_mut() {
            let length = self.push(key);
            if inner.is_null() {
                *inner = zero(item);
            }
            self.value(owner, item, inner)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn quantity(&mut self, owner: &Type, value: &mut Value) -> Result<(), DecodeError> {
        if !matches!(value, Value::String(_) | Value::Number(_)) {
            return Err(self.wrong(owner.short_name(), value, &Shape::Quantity.go_name()));
        }
        match Quantity::from_json(value) {
            Ok(quantity) => {
                *value = Value::String(quantity.canonical());
                Ok(())
            }
            Err(error) => Err(DecodeError::WrongType(format!("{}: {error}", self.path))),
        }
    }

    fn time(&mut self, owner: &Type, shape: &Shape, value: &mut Value) -> Result<(), DecodeError> {
        let Value::String(text) = value else {
            return Err(self.wrong(owner.short_name(), value, &shape.go_name()));
        };
        let Some(time) = api::time::parse(text) else {
            let layout = "2006-01-02T15:04:05Z07:00";
            return Err(DecodeError::WrongType(format!(
                "{}: parsing time {text:?} as {layout:?}: not a time of that form",
                self.path
            )));
        };
        *text = match shape {
            Shape::MicroTime => api::time::rfc3339_micro(time),
            _ => api::time::rfc3339(time),
        };
        Ok(())
    }

    fn bytes(&self, owner: &Type, value: &Value) -> Result<(), DecodeError> {
        let Value::String(text) = value else {
            return Err(self.wrong(owner.short_name(), value, &Shape::Bytes.go_name()));
        };
        match base64_error(text) {
            None => Ok(()),
            Some(at) => Err(DecodeError::WrongType(format!(
                "{}: illegal base64 data at input byte {at}",
                self.path
            ))),
        }
    }

    fn push(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn wrong(&self, owner: &str, value: &Value, expected: &str) -> DecodeError {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(expected, "int32" | "int64") => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        DecodeError::WrongType(match self.path.as_str() {
            "" => format!("json: cannot unmarshal {found} into Go value of type {expected}"),
            path => format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"
            ),
        })
    }
}

fn fits(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::String => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::Number => value.is_number(),
        Shape::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Shape::Int64 => value.as_i64().is_some(),
        Shape::IntOrString => {
            value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
        }
        Shape::Any => value.is_object(),
        _ => false,
    }
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Object(_) | Shape::Map(_) | Shape::Any => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Bool => Value::Bool(false),
        Shape::Quantity => Value::from("0"),
        _ => Value::String(String::new()),
    }
}

/// Empty texts, lists and maps mean absence wherever a field may be absent.
fn is_dropped(field: &Field, value: &Value) -> bool {
    if field.required || field.keeps_empty {
        return false;
    }
    match (&field.shape, value) {
        (Shape::String | Shape::Bytes, Value::String(text)) => text.is_empty(),
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(items)) => items.is_empty(),
        _ => false,
    }
}

/// Where standard base64 with padding goes wrong.
fn base64_error(text: &str) -> Option<usize> {
    let bytes: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let padding = bytes.iter().rev().take_while(|&&b| b == b'=').count();
    let body = bytes.len() - padding;
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    if let Some(bad) = bytes.iter().take(body).position(|b| !alphabet(b)) {
        return Some(bad);
    }
    match (padding, bytes.len() % 4) {
        (0..=2, 0) => None,
        _ => Some(bytes.len()),
    }
}
