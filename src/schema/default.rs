//! stub
use api::Resource;
use serde_json::Value;
pub fn default(_res: &Resource, _object: &mut Value) {}
