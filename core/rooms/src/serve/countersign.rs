//! This server's signature on membership events that other servers made: invitations of local users
//! and joins that a local user vouches for. Nothing else of others is ever signed.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, RoomVersionId, ServerName, UserId,
    signatures::{content_hash, sign_event},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Rooms, error::RoomError, writer::parse_object};

/// What a membership event must be to get this server's signature.
#[derive(Clone, Copy, Debug)]
pub struct MembershipShape<'a> {
    /// The room that it must be for.
    pub room_id: &'a RoomId,
    /// The server whose user must have sent it.
    pub sender: &'a ServerName,
    /// Whose membership it must be.
    pub user_id: &'a UserId,
    /// Which membership it must give: `invite` or `join`.
    pub membership: &'a str,
}

/// The types that fields of events have.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Array,
    Integer,
    Object,
    String,
}

impl Kind {
    fn fits(self, value: &CanonicalJsonValue) -> bool {
        matches!(
            (self, value),
            (Self::Array, CanonicalJsonValue::Array(_))
                | (Self::Integer, CanonicalJsonValue::Integer(_))
                | (Self::Object, CanonicalJsonValue::Object(_))
                | (Self::String, CanonicalJsonValue::String(_))
        )
    }
}

/// Fields that are taken over into the event that is signed, with the type that each must have.
/// `origin` is no part of events any more, but templates and older servers have it.
const FIELDS: [(&str, Kind); 12] = [
    ("auth_events", Kind::Array),
    ("content", Kind::Object),
    ("depth", Kind::Integer),
    ("hashes", Kind::Object),
    ("origin", Kind::String),
    ("origin_server_ts", Kind::Integer),
    ("prev_events", Kind::Array),
    ("room_id", Kind::String),
    ("sender", Kind::String),
    ("signatures", Kind::Object),
    ("state_key", Kind::String),
    ("type", Kind::String),
];

impl Rooms {
    /// Rebuilds a membership event from its own fields and adds this server's signature. The other
    /// signatures are kept, and are not looked at here.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] if it is not an event of this shape, has fields that no membership event
    /// has, or a content hash that is not its own; [`RoomError::UnsupportedVersion`].
    pub fn countersign(
        &self,
        version: &RoomVersionId,
        event: &RawValue,
        shape: MembershipShape<'_>,
    ) -> Result<Box<RawValue>, RoomError> {
        let rules =
            version.rules().ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let mut object = rebuild(event)?;
        check_shape(&object, shape)?;
        check_hash(&object)?;
        let identity = self.identity();
        let name = identity.server_name().as_str();
        sign_event(name, identity.key_pair(), &mut object, &rules.redaction)
            .map_err(|error| RoomError::InvalidParam(error.to_string()))?;
        to_raw_value(&object).map_err(|error| RoomError::InvalidParam(error.to_string()))
    }
}

fn refused(text: impl Into<String>) -> RoomError {
    RoomError::InvalidParam(text.into())
}

/// A new object of an event's known fields, each of the type that it must have.
fn rebuild(event: &RawValue) -> Result<CanonicalJsonObject, RoomError> {
    let mut given = parse_object(event)?;
    let mut object = CanonicalJsonObject::new();
    for (field, kind) in FIELDS {
        match given.remove(field) {
            Some(value) if kind.fits(&value) => {
                object.insert(field.to_owned(), value);
            }
            Some(_) => return Err(refused(format!("`{field}` has the wrong type"))),
            None if field == "origin" => {}
            None => return Err(refused(format!("`{field}` is missing"))),
        }
    }
    // It is outside the hash and the signatures, and says nothing that is kept.
    given.remove("unsigned");
    match given.keys().next() {
        Some(field) => Err(refused(format!("a membership event has no `{field}`"))),
        None => Ok(object),
    }
}

fn check_shape(object: &CanonicalJsonObject, shape: MembershipShape<'_>) -> Result<(), RoomError> {
    let text = |field: &str| object.get(field).and_then(CanonicalJsonValue::as_str);
    let membership = object
        .get("content")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|content| content.get("membership"))
        .and_then(CanonicalJsonValue::as_str);
    let sender = text("sender").and_then(|sender| UserId::parse(sender).ok());
    let fits = text("type") == Some("m.room.member")
        && text("room_id") == Some(shape.room_id.as_str())
        && text("state_key") == Some(shape.user_id.as_str())
        && membership == Some(shape.membership)
        && sender.is_some_and(|sender| sender.server_name() == shape.sender)
        && ["auth_events", "prev_events"].iter().all(|field| are_ids(object.get(*field)));
    if fits { Ok(()) } else { Err(refused("not the membership event that was asked for")) }
}

fn are_ids(value: Option<&CanonicalJsonValue>) -> bool {
    let ids = value.and_then(CanonicalJsonValue::as_array);
    ids.is_some_and(|ids| ids.iter().all(|id| id.as_str().is_some_and(|id| id.starts_with('$'))))
}

/// An event that was altered since it was hashed would be redacted by whoever receives it.
fn check_hash(object: &CanonicalJsonObject) -> Result<(), RoomError> {
    let own = content_hash(object).map_err(|error| refused(error.to_string()))?;
    let claimed = object
        .get("hashes")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|hashes| hashes.get("sha256"))
        .and_then(CanonicalJsonValue::as_str);
    if claimed.map(|claimed| claimed.trim_end_matches('=')) == Some(own.encode().as_str()) {
        Ok(())
    } else {
        Err(refused("the content hash does not match"))
    }
}
