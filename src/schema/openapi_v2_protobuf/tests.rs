//! Bytes of small documents, written out by hand, and the whole document.

use serde_json::json;

use super::encode;

/// The bytes in groups as a person reads them: tag, length, text.
fn shown(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'!'..=b'~' => char::from(*byte).to_string(),
            other => format!("<{other}>"),
        })
        .collect()
}

#[test]
fn nothing_of_the_document_is_lost() {
    let document = crate::openapi_v2();
    let (bytes, unknown) = encode(&document);
    assert_eq!(unknown, [""; 0]);
    assert!(bytes.ends_with(b"\x0a\x032.0"), "the version comes last, because keys are sorted");
    assert!(bytes.len() > 100_000 && bytes.len() < document.to_string().len());
}

#[test]
fn a_schema() {
    let document = json!({"definitions": {"a.B": {
        "type": "object",
        "properties": {"c": {"type": "array", "items": {"$ref": "#/x"}}, "d": {"additionalProperties": true}},
        "required": ["c"],
        "x-kubernetes-list-map-keys": ["c"],
        "maxLength": 300, "minimum": 1.0, "readOnly": false,
    }}});
    let (bytes, unknown) = encode(&document);
    assert_eq!(unknown, [""; 0]);
    // Definitions, an entry, its name, its schema; in that by the order of JSON's keys. What is false is not written.
    let expected = concat!(
        "Jw<10>u<10><3>a.B<18>n",
        "X<172><2>",
        "I<0><0><0><0><0><0><240>?",
        "<202><1>'<10><25><10><1>c<18><20><186><1><7><10><5><10><3>#/x<178><1><7><10><5>array",
        "<10><10><10><1>d<18><5><170><1><2><16><1>",
        "<154><1><1>c",
        "<178><1><8><10><6>object",
        "<250><1>&<10><26>x-kubernetes-list-map-keys<18><8><18><6>[\"c\"]<10>",
    );
    assert_eq!(shown(&bytes), expected);
}

#[test]
fn parameters_by_their_place() {
    let place = |name: &str, place: &str| json!({"name": name, "in": place, "required": true});
    let parameters = json!([place("b", "body"), place("q", "query"), place("p", "path")]);
    let document = json!({"paths": {"/x": {"parameters": parameters}}});
    let (bytes, unknown) = encode(&document);
    assert_eq!(unknown, [""; 0]);
    let expected = concat!(
        "B@<18>><10><2>/x<18>8",
        "J<15><10><13><10><11><26><4>body<18><1>b<32><1>",
        "J<18><10><16><18><14><26><12><18><5>query\"<1>q<8><1>",
        "J<17><10><15><18><13>\"<11><18><4>path\"<1>p<8><1>",
    );
    assert_eq!(shown(&bytes), expected);
    assert_eq!(encode(&json!({"nonsense": 1})).1, ["nonsense"]);
}
