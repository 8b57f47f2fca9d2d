//! Protobuf request bodies become JSON: clients of upstream's Go library send built-in kinds in this form. Answers are
//! always JSON, which those clients accept.
//!
//! The types are `schema`'s; `numbers.txt` adds the field numbers. Upstream writes also the zero of a field that is no
//! pointer, where JSON has nothing, so such zeros are left out.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schema::{Shape, Type};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::answer::Result;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
const DEPTH_MAX: usize = 64;
/// A few bytes can stand for a value that takes a hundred in memory.
const VALUES_MAX: usize = 200_000;
/// Field numbers are below this; paths of numbers are digits to this base.
const NUMBERS: u64 = 2048;

/// What a field number means.
struct Named {
    field: &'static str,
    /// Its zero differs from its absence.
    pointer: bool,
}

#[derive(Default)]
struct Numbers {
    fields: HashMap<u64, Named>,
    /// Messages whose fields JSON shows in their owner.
    inline: HashSet<u64>,
}

static TABLE: LazyLock<HashMap<&'static str, Numbers>> =
    LazyLock::new(|| parse(include_str!("numbers.txt")));

/// Turns a body into the JSON text of the same object.
pub(crate) fn to_json(bytes: &[u8]) -> Result<Value> {
    let broken =
        |why: &str| Status::bad_request(format!("the object provided is unrecognized: {why}"));
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        return Err(broken(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    decode(envelope).map_err(|why| broken(&format!("protobuf: {why}")))
}

type Decoded<T> = std::result::Result<T, String>;

/// One field of a message on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

/// Counts what has been made so far.
struct Decoder {
    values: usize,
}

fn decode(envelope: &[u8]) -> Decoded<Value> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(envelope);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader(meta);
                while let Some((number, wire)) = reader.field()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api::resource::split_api_version(&api_version);
    let ty = schema::builtin(group, version, &kind)
        // Options exist in every group.
        .or_else(|| schema::builtin("", "v1", &kind).filter(|_| kind.ends_with("Options")))
        .ok_or_else(|| {
            format!("no kind {kind:?} is registered for version {api_version:?} in this server")
        })?;
    let mut decoder = Decoder { values: 0 };
    let mut object = Map::new();
    decoder.message(ty, 0, raw, &mut object, 0)?;
    object.insert("kind".to_owned(), kind.into());
    object.insert("apiVersion".to_owned(), api_version.into());
    Ok(Value::Object(object))
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("unexpected end of a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than 10 bytes".to_owned())
    }

    fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("unexpected end of a field")?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Decoded<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(little_endian(self.take(8)?)),
            5 => Wire::Number(little_endian(self.take(4)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a field is too long")?;
                Wire::Bytes(self.take(length)?)
            }
            other => return Err(format!("wire type {other} is not supported")),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

impl Decoder {
    /// Reads the fields of a message into `out`. `place` is the path of inline messages that led here.
    fn message(
        &mut self,
        ty: &Type,
        place: u64,
        bytes: &[u8],
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Decoded<()> {
        if depth > DEPTH_MAX {
            return Err(format!("exceeded max depth of {DEPTH_MAX}"));
        }
        let Some(numbers) = TABLE.get(ty.name) else { return Ok(()) };
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            if number == 0 || number >= NUMBERS {
                continue;
            }
            let at = place * NUMBERS + number;
            match (numbers.fields.get(&at), wire) {
                (Some(named), wire) => {
                    if let Some(field) = ty.field(named.field) {
                        self.member(&field.shape, named, &wire, out, depth)?;
                    }
                }
                (None, Wire::Bytes(inner)) if numbers.inline.contains(&at) => {
                    self.message(ty, at, inner, out, depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn member(
        &mut self,
        shape: &Shape,
        named: &Named,
        wire: &Wire<'_>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Decoded<()> {
        match shape {
            Shape::List(item) => {
                let items = out.entry(named.field).or_insert_with(|| json!([]));
                let Some(items) = items.as_array_mut() else { return Ok(()) };
                match (item.as_ref(), wire) {
                    (Shape::Int32 | Shape::Int64, Wire::Bytes(packed)) => {
                        let mut reader = Reader(packed);
                        while !reader.0.is_empty() {
                            items.push(self.value(item, &Wire::Number(reader.varint()?), depth)?);
                        }
                    }
                    (item, wire) => items.push(self.value(item, wire, depth)?),
                }
            }
            Shape::Map(item) => {
                let Wire::Bytes(entry) = wire else { return Err(mismatch(named.field)) };
                let (key, value) = self.entry(item, entry, depth)?;
                if let Some(map) =
                    out.entry(named.field).or_insert_with(|| json!({})).as_object_mut()
                {
                    map.insert(key, value);
                }
            }
            shape => {
                let value = self.value(shape, wire, depth)?;
                if named.pointer || !is_zero(shape, &value) {
                    out.insert(named.field.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, item: &Shape, bytes: &[u8], depth: usize) -> Decoded<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire, item) {
                (1, Wire::Bytes(bytes), _) => key = text(bytes)?,
                // A list as a value of a map is a message of its own with the items as field 1.
                (2, Wire::Bytes(bytes), Shape::List(inner)) => {
                    let mut items = Vec::new();
                    let mut reader = Reader(bytes);
                    while let Some((_, wire)) = reader.field()? {
                        items.push(self.value(inner, &wire, depth)?);
                    }
                    value = Some(Value::Array(items));
                }
                (2, wire, item) => value = Some(self.value(item, &wire, depth)?),
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| json!(""))))
    }

    fn value(&mut self, shape: &Shape, wire: &Wire<'_>, depth: usize) -> Decoded<Value> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values"));
        }
        Ok(match (shape, wire) {
            (Shape::Bool, Wire::Number(n)) => Value::Bool(*n != 0),
            (Shape::Int32 | Shape::Int64, Wire::Number(n)) => n.cast_signed().into(),
            (Shape::Number, Wire::Number(n)) => json!(f64::from_bits(*n)),
            (Shape::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
            (Shape::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Shape::Object(index), Wire::Bytes(bytes)) => {
                let mut inner = Map::new();
                self.message(schema::type_at(*index), 0, bytes, &mut inner, depth + 1)?;
                Value::Object(inner)
            }
            (Shape::Quantity, Wire::Bytes(bytes)) => {
                single(bytes, 1)?.map_or(Ok(json!("0")), |b| text(b).map(Value::from))?
            }
            (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => time(shape, bytes)?,
            (Shape::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Shape::Any, Wire::Bytes(bytes)) => {
                let raw = single(bytes, 1)?.unwrap_or_default();
                serde_json::from_slice(raw).unwrap_or(Value::Null)
            }
            _ => return Err(mismatch("a field")),
        })
    }
}

fn mismatch(field: &str) -> String {
    format!("{field} has the wrong wire type")
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |acc, b| acc << 8 | u64::from(*b))
}

fn text(bytes: &[u8]) -> Decoded<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8".to_owned())
}

/// The bytes of one field of a small message.
fn single(bytes: &[u8], wanted: u64) -> Decoded<Option<&[u8]>> {
    let mut found = None;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// A time of no bytes is no time.
fn time(shape: &Shape, bytes: &[u8]) -> Decoded<Value> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader(bytes);
    let mut any = false;
    while let Some((number, wire)) = reader.field()? {
        any = true;
        match (number, wire) {
            (1, Wire::Number(n)) => seconds = n.cast_signed(),
            (2, Wire::Number(n)) => nanos = i32::try_from(n).unwrap_or_default(),
            _ => {}
        }
    }
    if !any {
        return Ok(Value::Null);
    }
    let time =
        jiff::Timestamp::new(seconds, nanos).map_err(|e| format!("a time is out of range: {e}"))?;
    Ok(match shape {
        Shape::MicroTime => api::time::rfc3339_micro(time),
        _ => api::time::rfc3339(time),
    }
    .into())
}

fn int_or_string(bytes: &[u8]) -> Decoded<Value> {
    let (mut is_text, mut number, mut words) = (false, 0i64, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(bytes)) => words = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { words.into() } else { number.into() })
}

/// What JSON leaves out unless a pointer holds it.
fn is_zero(shape: &Shape, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() && !matches!(shape, Shape::Quantity),
        _ => false,
    }
}

fn parse(text: &'static str) -> HashMap<&'static str, Numbers> {
    let mut table: HashMap<&str, Numbers> = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("type ") {
            current = name;
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(numbers), Some(field)) = (words.next(), words.next()) else { continue };
        let entry = table.entry(current).or_default();
        let mut at = 0;
        for number in numbers.split('.') {
            if at != 0 {
                entry.inline.insert(at);
            }
            at = at * NUMBERS + number.parse::<u64>().unwrap_or_default();
        }
        entry.fields.insert(at, Named { field, pointer: words.next() == Some("pointer") });
    }
    table
}
