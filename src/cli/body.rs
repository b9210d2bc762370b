//! What travels in a message, as JSON: any JSON value out, any MessagePack value in.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// A body. Reading one takes what JSON lacks as well: byte strings become arrays of numbers, map keys that are not
/// strings become their JSON text, and floats that are not numbers become null.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Body(pub(crate) Value);

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MessagePack value")
    }

    fn visit_unit<E: Error>(self) -> Result<Body, E> {
        Ok(Body(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Body, E> {
        Ok(Body(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body, D::Error> {
        Body::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body, D::Error> {
        // An extension type is a pair of its tag and its bytes.
        Body::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Body, E> {
        Ok(Body(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Body, E> {
        Ok(Body(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Body, E> {
        Ok(Body(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Body, E> {
        Ok(Body(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Body, E> {
        Ok(Body(value.into()))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Body, E> {
        Ok(Body(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
        // The length is a claim of the sender's: nothing is reserved for it.
        let mut items = Vec::new();
        while let Some(Body(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Body(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut object = Map::new();
        while let Some((Body(key), Body(value))) = map.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                other => other.to_string(),
            };
            object.insert(key, value);
        }
        Ok(Body(Value::Object(object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(bytes: &[u8]) -> Value {
        rmp_serde::from_slice::<Body>(bytes).unwrap().0
    }

    #[test]
    fn json_survives() {
        let value = json!({"a": [1, -2, 2.5, null, true, "x"], "b": {"c": u64::MAX}});
        assert_eq!(read(&rmp_serde::to_vec_named(&Body(value.clone())).unwrap()), value);
    }

    #[test]
    fn what_json_lacks_is_shown() {
        assert_eq!(read(&[0xc4, 2, 1, 2]), json!([1, 2]), "bytes");
        assert_eq!(read(&[0x82, 1, 0xa1, b'x', 0xc3, 2]), json!({"1": "x", "true": 2}), "keys");
        assert_eq!(read(&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]), json!(null), "not a number");
        assert_eq!(read(&[0xd4, 5, 9]), json!([5, [9]]), "extension type");
    }
}
