//! stub
use api::Resource;
use serde_json::Value;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}
pub fn table(
    _res: &Resource,
    _objects: &[&Value],
    _include: IncludeObject,
    _now: jiff::Timestamp,
) -> Value {
    Value::Null
}
