//! The body: one MessagePack value, to and from anything that serde can write and read.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{DecodeError, DecodeReason, EncodeError};
use super::limits::{Limits, check};

/// The body of a message that has nothing to say (ack, cancel, end): MessagePack's nil. A body is never empty.
///
/// ```
/// use ripstop::envelope::{NIL, encode_body};
///
/// let mut body = Vec::new();
/// encode_body(&(), &mut body)?;
/// assert_eq!(body, NIL);
/// # Ok::<(), ripstop::envelope::EncodeError>(())
/// ```
pub const NIL: &[u8] = &[0xc0];

/// Appends `value` to `out` as MessagePack: structs as maps with their field names, enums by the names of their
/// variants, and types that have a text form (`Uuid`, `IpAddr`, dates) as text, so that every language can read it
/// and JSON translates one to one. `Vec<u8>` is an array of numbers; use `serde_bytes` for a byte string.
///
/// # Errors
/// [`EncodeError`], with `out` as it was.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Ask {
///     qty: u64,
/// }
///
/// let mut body = Vec::new();
/// ripstop::envelope::encode_body(&Ask { qty: 3 }, &mut body)?;
/// assert_eq!(body, b"\x81\xa3qty\x03"); // {"qty": 3}
/// # Ok::<(), ripstop::envelope::EncodeError>(())
/// ```
pub fn encode_body<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let mut serializer = rmp_serde::Serializer::new(&mut *out).with_struct_map().with_human_readable();
    let written =
        value.serialize(&mut serializer).map_err(|error| EncodeError::Unserializable(error.to_string()));
    // Better refused here, where the caller learns of it, than by every receiver.
    let limit = Limits::default().depth;
    let checked =
        written.and_then(|()| match check(out.get(start..).unwrap_or_default(), Limits::default()) {
            Err(DecodeError { reason: DecodeReason::TooDeep { .. }, .. }) => {
                Err(EncodeError::TooDeep { limit })
            }
            Err(error) => Err(EncodeError::Unserializable(error.to_string())),
            Ok(()) => Ok(()),
        });
    checked.inspect_err(|_| out.truncate(start))
}

/// Reads one value from `bytes`. Unknown fields are ignored; missing ones that are `Option` or `#[serde(default)]`
/// take their default. Depth is at most 64, and memory follows the bytes that are there, never a length that they
/// claim.
///
/// # Errors
/// [`DecodeError`], with the path to the field that doesn't fit.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Ask {
///     qty: u64,
/// }
///
/// let ask: Ask = ripstop::envelope::decode_body(b"\x82\xa3qty\x03\xa3new\xc3")?; // {"qty": 3, "new": true}
/// assert_eq!(ask.qty, 3);
/// # Ok::<(), ripstop::envelope::DecodeError>(())
/// ```
pub fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_body_within(bytes, Limits::default())
}

/// The same within limits of one's own. A value that is nested deeper than the default allows is also sent by nobody.
///
/// # Errors
/// As for [`decode_body`].
///
/// ```
/// use ripstop::envelope::{DecodeReason, Limits, decode_body_within};
///
/// let error = decode_body_within::<Vec<u8>>(&[0x92, 1, 2], Limits { elements: 2, ..Limits::default() }).unwrap_err();
/// assert_eq!(error.reason, DecodeReason::TooMany { limit: 2 });
/// ```
pub fn decode_body_within<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, DecodeError> {
    check(bytes, limits)?;
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    T::deserialize(&mut decoder).map_err(|error| explain::<T>(bytes, &error))
}

/// Decodes again, slowly, to learn where it failed.
#[cold]
fn explain<T: DeserializeOwned>(bytes: &[u8], first: &rmp_serde::decode::Error) -> DecodeError {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    let (mut path, reason) = match serde_path_to_error::deserialize::<_, T>(&mut decoder) {
        Err(error) => (error.path().to_string(), words(error.inner())),
        Ok(_) => (".".into(), words(first)), // a type that decides anew each time
    };
    if path == "." {
        path.clear();
    }
    // The tracker stops at the struct; the field that isn't there is what people look for.
    if let Some(field) = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(field);
    }
    DecodeError::new(path, None, DecodeReason::Mismatch(reason))
}

/// serde's words, but for the one error of rmp-serde that only its authors can read.
fn words(error: &rmp_serde::decode::Error) -> String {
    use rmp::Marker as M;
    let rmp_serde::decode::Error::TypeMismatch(marker) = error else { return error.to_string() };
    let found = match marker {
        M::FixPos(_) | M::FixNeg(_) | M::U8 | M::U16 | M::U32 | M::U64 | M::I8 | M::I16 | M::I32 | M::I64 => {
            "an integer"
        }
        M::F32 | M::F64 => "a floating-point number",
        M::FixStr(_) | M::Str8 | M::Str16 | M::Str32 => "a string",
        M::Bin8 | M::Bin16 | M::Bin32 => "a byte string",
        M::FixArray(_) | M::Array16 | M::Array32 => "an array",
        M::FixMap(_) | M::Map16 | M::Map32 => "a map",
        M::True | M::False => "a boolean",
        M::Null => "nil",
        _ => "an extension",
    };
    format!("{found}, where another type belongs")
}
