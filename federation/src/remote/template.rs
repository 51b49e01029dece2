//! Templates of membership events, as other servers make them (SS "Joining Rooms"): nothing of a
//! template is taken over but the event's place in the room and who vouches for it.

use hearth_rooms::{
    MemberProfile, MembershipDraft, RemoteMembership, RoomError, format::membership_name,
    schema::Membership,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What is read of a template.
#[derive(Deserialize)]
struct Template {
    #[serde(rename = "type")]
    kind: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: String,
    content: TemplateContent,
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
    depth: u64,
}

#[derive(Deserialize)]
struct TemplateContent {
    membership: String,
    join_authorised_via_users_server: Option<OwnedUserId>,
}

/// Reads a template for what `wish` asked for; the error says what is wrong with it.
pub(super) fn draft(
    template: &RawValue,
    room_version: Option<RoomVersionId>,
    wish: &RemoteMembership,
    membership: Membership,
) -> Result<MembershipDraft, TemplateError> {
    // Servers leave the version out where it is 1 or 2.
    let room_version = room_version.unwrap_or(RoomVersionId::V1);
    let rules = room_version
        .rules()
        .filter(|_| hearth_rooms::SUPPORTED_VERSIONS.contains(&room_version))
        .ok_or_else(|| TemplateError::Version(room_version.clone()))?;
    let template: Template = serde_json::from_str(template.get())
        .map_err(|error| TemplateError::Other(error.to_string()))?;
    let wrong = |field: &'static str| Err(TemplateError::Field(field));
    if template.kind != "m.room.member" {
        return wrong("type");
    }
    if template.room_id != wish.room_id {
        return wrong("room_id");
    }
    if template.sender != wish.user_id {
        return wrong("sender");
    }
    if template.state_key != wish.user_id {
        return wrong("state_key");
    }
    if template.content.membership != membership_name(membership) {
        return wrong("membership");
    }
    let restricted = membership == Membership::Join && rules.authorization.restricted_join_rule;
    let profile: Option<MemberProfile> =
        (membership != Membership::Leave).then(|| wish.profile.clone());
    Ok(MembershipDraft {
        room_id: template.room_id,
        room_version,
        user_id: template.sender,
        membership,
        profile,
        reason: wish.reason.clone(),
        authorised_via: template.content.join_authorised_via_users_server.filter(|_| restricted),
        auth_events: template.auth_events,
        prev_events: template.prev_events,
        depth: template.depth,
    })
}

/// Why a template is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// This server does not serve such rooms.
    #[error("the room's version is {0}")]
    Version(RoomVersionId),
    /// A field says something else than what was asked for.
    #[error("the template's {0} is not what was asked for")]
    Field(&'static str),
    /// It is no template at all.
    #[error("not a template: {0}")]
    Other(String),
}

impl TemplateError {
    /// In the terms of rooms.
    pub(super) fn into_room_error(self, server: &ruma::ServerName) -> RoomError {
        match self {
            Self::Version(version) => RoomError::IncompatibleVersion(version.to_string()),
            error => super::asking::unfit(server, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn wish() -> RemoteMembership {
        RemoteMembership {
            room_id: owned_room_id!("!room:there.test"),
            user_id: owned_user_id!("@ann:here.test"),
            profile: MemberProfile { displayname: Some("Ann".to_owned()), avatar_url: None },
            reason: Some("curious".to_owned()),
            via: Vec::new(),
        }
    }

    fn template() -> Value {
        json!({
            "type": "m.room.member",
            "room_id": "!room:there.test",
            "sender": "@ann:here.test",
            "state_key": "@ann:here.test",
            "content": {
                "membership": "join",
                "displayname": "Mallory",
                "join_authorised_via_users_server": "@mod:there.test",
                "extra": true,
            },
            "origin_server_ts": 1,
            "auth_events": ["$a"],
            "prev_events": ["$p"],
            "depth": 7,
        })
    }

    fn read(
        template: &Value,
        version: Option<RoomVersionId>,
    ) -> Result<MembershipDraft, TemplateError> {
        draft(&to_raw_value(template).unwrap(), version, &wish(), Membership::Join)
    }

    #[test]
    fn only_the_place_and_the_voucher_are_taken_over() {
        let draft = read(&template(), Some(RoomVersionId::V11)).unwrap();
        assert_eq!(draft.profile.unwrap().displayname.as_deref(), Some("Ann"));
        assert_eq!(draft.reason.as_deref(), Some("curious"));
        assert_eq!(draft.authorised_via.unwrap(), "@mod:there.test");
        assert_eq!((draft.depth, draft.prev_events.len(), draft.auth_events.len()), (7, 1, 1));
    }

    #[test]
    fn vouchers_mean_nothing_where_no_room_is_restricted() {
        let draft = read(&template(), Some(RoomVersionId::V6)).unwrap();
        assert_eq!(draft.authorised_via, None);
    }

    #[test]
    fn crafted_templates_are_refused() {
        let crafted = [
            ("/type", json!("m.room.power_levels"), "type"),
            ("/room_id", json!("!other:there.test"), "room_id"),
            ("/sender", json!("@bob:here.test"), "sender"),
            ("/state_key", json!("@bob:here.test"), "state_key"),
            ("/content/membership", json!("ban"), "membership"),
        ];
        for (path, value, field) in crafted {
            let mut template = template();
            *template.pointer_mut(path).unwrap() = value;
            let refused = read(&template, Some(RoomVersionId::V11));
            assert_eq!(refused.unwrap_err(), TemplateError::Field(field));
        }
        let no_template = read(&json!({ "type": "m.room.member" }), Some(RoomVersionId::V11));
        assert!(matches!(no_template, Err(TemplateError::Other(_))));
    }

    #[test]
    fn versions_that_are_not_served_are_refused() {
        for version in [None, Some(RoomVersionId::V5), Some("org.test.99".try_into().unwrap())] {
            assert!(matches!(read(&template(), version), Err(TemplateError::Version(_))));
        }
    }
}
