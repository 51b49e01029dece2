//! Events of this server that come back with another server's signature beside its own.

use bytes::Bytes;
use hearth_rooms::{CheckedPdu, RoomError};
use hearth_types::Pdu;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId, ServerName, canonical_json::redact,
    signatures::verify_json,
};
use serde_json::value::RawValue;

use super::asking::unfit;
use crate::{Federation, keys::WantedKeys};

/// Takes `server`'s signature over: the answered event must be ours but for signatures (and `unsigned`,
/// which nobody signs), and the signature must be good.
pub(super) async fn countersigned(
    federation: &Federation,
    version: &RoomVersionId,
    ours: &CheckedPdu,
    answered: &RawValue,
    server: &ServerName,
) -> Result<CheckedPdu, RoomError> {
    let object = merge(ours, answered, server).map_err(|reason| unfit(server, reason))?;
    verify(federation, version, &object, server).await?;
    let json = serde_json::to_vec(&object).map_err(|error| unfit(server, error))?;
    if json.len() > hearth_types::limits::MAX_PDU_BYTES {
        return Err(RoomError::TooLarge);
    }
    // Signatures are no part of the ID.
    let pdu = Pdu::parse(ours.pdu().id().to_owned(), Bytes::from(json))
        .map_err(|error| unfit(server, error))?;
    Ok(CheckedPdu::new(pdu))
}

/// Our event with the signatures that `server` has added.
fn merge(
    ours: &CheckedPdu,
    answered: &RawValue,
    server: &ServerName,
) -> Result<CanonicalJsonObject, String> {
    let mut theirs: CanonicalJsonObject =
        serde_json::from_str(answered.get()).map_err(|error| error.to_string())?;
    let mut object: CanonicalJsonObject =
        serde_json::from_slice(ours.pdu().json()).map_err(|error| error.to_string())?;
    let added = take_signatures(&mut theirs).and_then(|mut all| all.remove(server.as_str()));
    let mut signatures = take_signatures(&mut object).unwrap_or_default();
    theirs.remove("unsigned");
    object.remove("unsigned");
    if theirs != object {
        return Err("the event is another one".to_owned());
    }
    signatures.insert(server.to_string(), added.ok_or("the signature is missing")?);
    object.insert("signatures".to_owned(), CanonicalJsonValue::Object(signatures));
    Ok(object)
}

fn take_signatures(object: &mut CanonicalJsonObject) -> Option<CanonicalJsonObject> {
    match object.remove("signatures") {
        Some(CanonicalJsonValue::Object(signatures)) => Some(signatures),
        _ => None,
    }
}

/// Checks one server's signature of an event.
async fn verify(
    federation: &Federation,
    version: &RoomVersionId,
    object: &CanonicalJsonObject,
    server: &ServerName,
) -> Result<(), RoomError> {
    let rules =
        version.rules().ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
    let mut signed =
        redact(object.clone(), &rules.redaction, None).map_err(|error| unfit(server, error))?;
    let signatures = take_signatures(&mut signed).unwrap_or_default();
    let theirs = signatures.get(server.as_str()).and_then(CanonicalJsonValue::as_object);
    let theirs = theirs.ok_or_else(|| unfit(server, "the signature is missing"))?.clone();
    let now = federation.clock().now();
    let wanted = theirs.keys().filter_map(|key| Some((key.as_str().try_into().ok()?, now)));
    let wanted = WantedKeys::from([(server.to_owned(), wanted.collect())]);
    let keys = federation.keys().keys(&wanted).await;
    let only = CanonicalJsonObject::from([(server.to_string(), theirs.into())]);
    signed.insert("signatures".to_owned(), CanonicalJsonValue::Object(only));
    verify_json(&keys, &signed).map_err(|error| unfit(server, error))
}

#[cfg(test)]
mod tests {
    use hearth_types::ServerIdentity;
    use ruma::{
        owned_event_id, server_name,
        signatures::{hash_and_sign_event, sign_event},
    };
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::testing::{Network, Server};

    fn ours() -> CheckedPdu {
        let event = json!({
            "content": { "membership": "invite" },
            "origin_server_ts": 1,
            "sender": "@ann:here.test",
            "signatures": { "here.test": { "ed25519:1": "ours" } },
            "state_key": "@bob:there.test",
            "type": "m.room.member",
        });
        let json = Bytes::from(event.to_string());
        CheckedPdu::new(Pdu::parse(owned_event_id!("$invite"), json).unwrap())
    }

    fn answer(change: impl FnOnce(&mut serde_json::Value)) -> Box<RawValue> {
        let mut event: serde_json::Value = serde_json::from_slice(ours().pdu().json()).unwrap();
        event["signatures"]["there.test"] = json!({ "ed25519:2": "theirs" });
        event["unsigned"] = json!({ "age": 3 });
        change(&mut event);
        to_raw_value(&event).unwrap()
    }

    #[test]
    fn a_signature_is_added_and_nothing_else() {
        let there = server_name!("there.test");
        let forged = answer(|event| event["signatures"]["here.test"] = json!({ "ed25519:1": "x" }));
        let merged = merge(&ours(), &forged, there).unwrap();
        let signatures = serde_json::to_value(&merged["signatures"]).unwrap();
        assert_eq!(
            signatures,
            json!({ "here.test": { "ed25519:1": "ours" }, "there.test": { "ed25519:2": "theirs" } })
        );
        assert!(!merged.contains_key("unsigned"));
    }

    /// What `countersigned` says of an event of ours that `signer` has signed in the name of `server`.
    async fn verdict(us: &Server, signer: &ServerIdentity, server: &ServerName) -> bool {
        let version = RoomVersionId::V11;
        let redaction = version.rules().unwrap().redaction;
        let own = us.federation.identity();
        let mut object: CanonicalJsonObject = serde_json::from_value(json!({
            "auth_events": [], "content": { "membership": "invite" }, "depth": 1,
            "origin_server_ts": 1, "prev_events": ["$before"], "room_id": "!room:here.test",
            "sender": "@ann:here.test", "state_key": "@bob:there.test", "type": "m.room.member",
        }))
        .unwrap();
        let name = own.server_name().as_str();
        hash_and_sign_event(name, own.key_pair(), &mut object, &redaction).unwrap();
        let json = Bytes::from(serde_json::to_vec(&object).unwrap());
        let ours = CheckedPdu::new(Pdu::parse(owned_event_id!("$invite"), json).unwrap());
        sign_event(server.as_str(), signer.key_pair(), &mut object, &redaction).unwrap();
        let answered = to_raw_value(&object).unwrap();
        countersigned(&us.federation, &version, &ours, &answered, server).await.is_ok()
    }

    #[tokio::test]
    async fn a_signature_counts_only_if_that_server_made_it() {
        let network = Network::default();
        let us = Server::open("here.test", &network).await;
        let them = Server::open("there.test", &network).await;
        let there = server_name!("there.test");
        assert!(verdict(&us, them.federation.identity(), there).await);
        // Another key of the same name.
        let key = ServerIdentity::generate_key();
        let forger = ServerIdentity::from_der(there.to_owned(), &key, "1".to_owned()).unwrap();
        assert!(!verdict(&us, &forger, there).await);
        assert!(!verdict(&us, us.federation.identity(), there).await);
    }

    #[test]
    fn another_event_or_none_of_their_signatures_is_refused() {
        let there = server_name!("there.test");
        let other = answer(|event| event["content"]["membership"] = json!("join"));
        assert!(merge(&ours(), &other, there).is_err());
        let unsigned = answer(|event| event["signatures"]["there.test"] = json!(null));
        assert!(merge(&ours(), &unsigned, server_name!("third.test")).is_err());
    }
}
