//! JSON objects that carry signatures: device keys, cross-signing keys (Appendices "Signing JSON").

use bytes::Bytes;
use ruma::{
    DeviceId, UserId,
    encryption::DeviceKeys,
    serde::{JsonObject, Raw},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{E2eeError, verify::verify_object};

/// A key object in bytes. Those of clients have some hundreds, and a few more for each signature.
pub(crate) const MAX_KEY_OBJECT_BYTES: usize = 32 * 1024;
/// Device keys of another server's user in bytes. Theirs may have signatures by former keys of the user.
const MAX_REMOTE_DEVICE_BYTES: usize = 8 * 1024;
/// A device ID in bytes.
pub(crate) const MAX_DEVICE_ID_BYTES: usize = 255;

/// An object as a client or another server sends it, without `unsigned`, which nobody signs.
pub(crate) fn parse_key_object(json: &str) -> Result<JsonObject, E2eeError> {
    if json.len() > MAX_KEY_OBJECT_BYTES {
        let message = format!("a key object has more than {MAX_KEY_OBJECT_BYTES} bytes");
        return Err(E2eeError::TooLarge(message));
    }
    let mut object: JsonObject =
        serde_json::from_str(json).map_err(|error| E2eeError::BadJson(error.to_string()))?;
    object.remove("unsigned");
    Ok(object)
}

/// An object as it is stored.
pub(crate) fn stored_object(json: &[u8]) -> Result<JsonObject, E2eeError> {
    serde_json::from_slice(json).map_err(|error| E2eeError::Internal(error.to_string()))
}

/// An object to be stored.
pub(crate) fn to_bytes(object: &JsonObject) -> Result<Bytes, E2eeError> {
    let json = serde_json::to_vec(object);
    json.map(Bytes::from).map_err(|error| E2eeError::Internal(error.to_string()))
}

/// Do two objects say the same, whoever signed them?
pub(crate) fn say_the_same(one: &JsonObject, other: &JsonObject) -> bool {
    let covered = |object: &JsonObject| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    covered(one) == covered(other)
}

/// A user's signatures on an object, by the signing keys' IDs.
pub(crate) fn signatures_of<'a>(
    object: &'a JsonObject,
    user_id: &UserId,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let of_user = object.get("signatures").and_then(|signatures| signatures.get(user_id.as_str()));
    let of_user = of_user.and_then(Value::as_object).into_iter().flatten();
    of_user.filter_map(|(key_id, signature)| Some((key_id.as_str(), signature.as_str()?)))
}

/// One signature on an object.
pub(crate) fn signature<'a>(
    object: &'a JsonObject,
    user_id: &UserId,
    key_id: &str,
) -> Option<&'a str> {
    signatures_of(object, user_id).find(|(id, _)| *id == key_id).map(|(_, signature)| signature)
}

/// Adds a signature to an object, in the place of an older one by the same key.
pub(crate) fn add_signature(
    object: &mut JsonObject,
    user_id: &UserId,
    key_id: &str,
    signature: &str,
) {
    let mut signatures = take_object(object, "signatures");
    let mut of_user = take_object(&mut signatures, user_id.as_str());
    of_user.insert(key_id.to_owned(), Value::from(signature));
    signatures.insert(user_id.to_string(), of_user.into());
    object.insert("signatures".to_owned(), signatures.into());
}

/// Keeps of a user's signatures on an object those by these keys.
pub(crate) fn keep_signatures(object: &mut JsonObject, user_id: &UserId, key_ids: &[&str]) {
    let of_user = object.get_mut("signatures").and_then(|all| all.get_mut(user_id.as_str()));
    if let Some(of_user) = of_user.and_then(Value::as_object_mut) {
        of_user.retain(|key_id, _| key_ids.contains(&key_id.as_str()));
    }
}

/// Takes the object out of this field; an empty one if there is none.
fn take_object(object: &mut JsonObject, field: &str) -> JsonObject {
    match object.remove(field) {
        Some(Value::Object(taken)) => taken,
        _ => JsonObject::new(),
    }
}

/// An object with the signatures of its own user alone.
pub(crate) fn only_signatures_of(user_id: &UserId, mut object: JsonObject) -> JsonObject {
    let mut all = take_object(&mut object, "signatures");
    let own = take_object(&mut all, user_id.as_str());
    if !own.is_empty() {
        let signatures = JsonObject::from_iter([(user_id.to_string(), own.into())]);
        object.insert("signatures".to_owned(), signatures.into());
    }
    object
}

/// The key that a device signs with, in base64.
pub(crate) fn device_signing_key<'a>(
    object: &'a JsonObject,
    device_id: &DeviceId,
) -> Option<&'a str> {
    object.get("keys")?.get(format!("ed25519:{device_id}"))?.as_str()
}

/// Device keys as another server tells them: of this device, and signed by it.
pub(crate) fn checked_device_keys(
    user_id: &UserId,
    device_id: &DeviceId,
    keys: &Raw<DeviceKeys>,
) -> Result<JsonObject, E2eeError> {
    if keys.json().get().len() > MAX_REMOTE_DEVICE_BYTES {
        return Err(E2eeError::TooLarge("the device keys are too large".to_owned()));
    }
    let object = parse_key_object(keys.json().get())?;
    let parsed = keys.deserialize().map_err(|error| E2eeError::BadJson(error.to_string()))?;
    if parsed.user_id != user_id || parsed.device_id != device_id {
        return Err(E2eeError::InvalidParam("they are another device's".to_owned()));
    }
    check_device_id(device_id)?;
    let key = device_signing_key(&object, device_id)
        .ok_or_else(|| E2eeError::InvalidParam("the device has no signing key".to_owned()))?;
    verify_object(&object, user_id, &format!("ed25519:{device_id}"), key)?;
    Ok(only_signatures_of(user_id, object))
}

/// Can a device have this ID?
pub(crate) fn check_device_id(device_id: &DeviceId) -> Result<(), E2eeError> {
    let id = device_id.as_str();
    // A star means all devices to those who send messages to them.
    if id.is_empty() || id.len() > MAX_DEVICE_ID_BYTES || id.contains('\0') || id == "*" {
        return Err(E2eeError::InvalidParam("the device ID is none".to_owned()));
    }
    Ok(())
}

/// A stored object as clients and servers get it.
pub(crate) fn shown<T>(json: &[u8]) -> Result<Raw<T>, E2eeError> {
    let text = str::from_utf8(json).map(ToOwned::to_owned);
    let text = text.map_err(|error| E2eeError::Internal(error.to_string()))?;
    let json = RawValue::from_string(text).map_err(|e| E2eeError::Internal(e.to_string()))?;
    Ok(Raw::from_json(json))
}

/// Stored device keys as clients and servers get them: with the device's name. The object is not read
/// for that, since many are shown at once.
pub(crate) fn shown_device(
    json: &[u8],
    display_name: Option<&str>,
) -> Result<Raw<DeviceKeys>, E2eeError> {
    #[derive(Serialize)]
    struct Unsigned<'a> {
        device_display_name: &'a str,
    }
    let Some(device_display_name) = display_name else { return shown(json) };
    let damaged = || E2eeError::Internal("stored device keys are no object".to_owned());
    let begin = json.strip_suffix(b"}").ok_or_else(damaged)?;
    let unsigned = serde_json::to_vec(&Unsigned { device_display_name })
        .map_err(|error| E2eeError::Internal(error.to_string()))?;
    let middle: &[u8] = if begin == b"{" { br#""unsigned":"# } else { br#","unsigned":"# };
    shown(&[begin, middle, &unsigned, b"}"].concat())
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> JsonObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_are_shown_beside_what_is_signed() {
        let json = br#"{"device_id":"A","signatures":{}}"#;
        assert_eq!(shown_device(json, None).unwrap().json().get().as_bytes(), json);
        let named = shown_device(json, Some("my \"phone\"")).unwrap();
        let named: Value = serde_json::from_str(named.json().get()).unwrap();
        assert_eq!(
            named,
            json!({
                "device_id": "A",
                "signatures": {},
                "unsigned": { "device_display_name": "my \"phone\"" },
            })
        );
        assert!(shown_device(b"[]", Some("name")).is_err());
    }

    #[test]
    fn signatures_do_not_count_when_objects_are_compared() {
        let one = object(json!({ "a": 1, "signatures": { "x": 1 } }));
        assert!(say_the_same(&one, &object(json!({ "a": 1, "unsigned": {} }))));
        assert!(!say_the_same(&one, &object(json!({ "a": 2 }))));
        assert!(!say_the_same(&one, &object(json!({ "a": 1, "b": 2 }))));
    }

    #[test]
    fn signatures_are_added_and_replaced() {
        let user_id = user_id!("@a:hearth.test");
        let mut one = object(json!({ "signatures": "none" }));
        add_signature(&mut one, user_id, "ed25519:K", "first");
        add_signature(&mut one, user_id, "ed25519:K", "second");
        add_signature(&mut one, user_id, "ed25519:L", "third");
        assert_eq!(signature(&one, user_id, "ed25519:K"), Some("second"));
        assert_eq!(signatures_of(&one, user_id).count(), 2);
        assert_eq!(signature(&one, user_id!("@b:hearth.test"), "ed25519:K"), None);
    }

    #[test]
    fn device_ids_have_bounds() {
        check_device_id(device_id!("JLAFKJWSCS")).unwrap();
        for bad in [String::new(), "x".repeat(256), "a\0b".to_owned(), "*".to_owned()] {
            assert!(check_device_id(bad.as_str().into()).is_err());
        }
    }
}
