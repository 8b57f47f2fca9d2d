//! stub
use api::{FieldError, Resource};
use serde_json::Value;
pub fn validate(_res: &Resource, _new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}
pub fn validate_status(_res: &Resource, _new: &Value, _old: &Value) -> Vec<FieldError> {
    Vec::new()
}
