//! stub
use serde_json::Value;
pub fn openapi_v3(_group_version: &str) -> Option<Value> {
    None
}
pub fn openapi_v3_index() -> Value {
    Value::Null
}
