//! A secret's `stringData`: what clients write as text, stored in `data`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Moves stringData into data; where both have a key, stringData wins.
pub fn to_stored(secret: &mut Value) {
    let Some(object) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(texts)) = object.remove("stringData") else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    let data = object.entry("data").or_insert(Value::Null);
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    let Some(data) = data.as_object_mut() else {
        return;
    };
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data.insert(key, STANDARD.encode(text).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_become_data_and_win_over_it() {
        let mut secret = json!({"kind": "Secret", "data": {"a": "eA==", "b": "eQ=="}, "stringData": {"b": "text", "c": ""}});
        to_stored(&mut secret);
        assert_eq!(
            secret,
            json!({"kind": "Secret", "data": {"a": "eA==", "b": "dGV4dA==", "c": ""}})
        );
        let mut empty = json!({"kind": "Secret", "stringData": {}});
        to_stored(&mut empty);
        assert_eq!(empty, json!({"kind": "Secret"}));
    }
}
