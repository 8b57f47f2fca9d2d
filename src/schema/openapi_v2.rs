//! stub
use serde_json::Value;
pub fn openapi_v2() -> Value {
    Value::Null
}
