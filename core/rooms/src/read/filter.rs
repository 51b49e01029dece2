//! Which events a reader asked for (CS "Filtering", `RoomEventFilter`).

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;

use crate::{RoomError, schema::StoredEvent};

/// A `RoomEventFilter`, with the relation conditions that ruma's type leaves out.
#[derive(Clone, Debug, Default)]
pub struct TimelineFilter {
    /// The conditions on the event itself.
    pub event: RoomEventFilter,
    /// Only events to which one of these users sent a relation.
    pub related_by_senders: Vec<OwnedUserId>,
    /// Only events to which there is a relation of one of these types.
    pub related_by_rel_types: Vec<String>,
}

#[derive(Deserialize)]
struct RelatedBy {
    #[serde(default)]
    related_by_senders: Vec<OwnedUserId>,
    #[serde(default)]
    related_by_rel_types: Vec<String>,
}

impl From<RoomEventFilter> for TimelineFilter {
    fn from(event: RoomEventFilter) -> Self {
        Self { event, ..Self::default() }
    }
}

impl TimelineFilter {
    /// Reads the filter of a query parameter.
    pub fn parse(json: &str) -> Result<Self, RoomError> {
        let wrong = |error| RoomError::InvalidParam(format!("filter: {error}"));
        let event = serde_json::from_str(json).map_err(wrong)?;
        let related: RelatedBy = serde_json::from_str(json).map_err(wrong)?;
        Ok(Self {
            event,
            related_by_senders: related.related_by_senders,
            related_by_rel_types: related.related_by_rel_types,
        })
    }

    /// Does it ask for the senders' memberships?
    #[must_use]
    pub fn lazy_load_members(&self) -> bool {
        matches!(self.event.lazy_load_options, LazyLoadOptions::Enabled { .. })
    }

    /// Does it ask about relations, which the event alone cannot answer?
    #[must_use]
    pub fn asks_relations(&self) -> bool {
        !self.related_by_senders.is_empty() || !self.related_by_rel_types.is_empty()
    }
}

/// Does the filter want anything of this room?
#[must_use]
pub fn wants_room(
    rooms: Option<&[OwnedRoomId]>,
    not_rooms: &[OwnedRoomId],
    room_id: &RoomId,
) -> bool {
    !not_rooms.iter().any(|id| id == room_id)
        && rooms.is_none_or(|rooms| rooms.iter().any(|id| id == room_id))
}

/// Does the filter want this sender and type? `not_…` wins; types may hold `*`.
#[must_use]
pub fn wants_kind(
    types: Option<&[String]>,
    not_types: &[String],
    senders: Option<&[OwnedUserId]>,
    not_senders: &[OwnedUserId],
    event_type: &str,
    sender: &UserId,
) -> bool {
    wants_type(types, not_types, event_type)
        && !not_senders.iter().any(|id| id == sender)
        && senders.is_none_or(|senders| senders.iter().any(|id| id == sender))
}

/// Does the filter want this type? `not_types` wins; both may hold `*`.
#[must_use]
pub fn wants_type(types: Option<&[String]>, not_types: &[String], event_type: &str) -> bool {
    !not_types.iter().any(|pattern| type_matches(pattern, event_type))
        && types.is_none_or(|types| types.iter().any(|pattern| type_matches(pattern, event_type)))
}

/// Does the filter want this event, apart from its room and from relations to it?
#[must_use]
pub fn wants_event(filter: &RoomEventFilter, event: &StoredEvent) -> bool {
    if filter.not_senders.iter().any(|id| id == event.pdu.sender())
        || filter.senders.as_ref().is_some_and(|ids| !ids.iter().any(|id| id == event.pdu.sender()))
    {
        return false;
    }
    // Most filters name no types: then the type need not be written out.
    let any_type = filter.types.is_none() && filter.not_types.is_empty();
    (any_type
        || wants_type(filter.types.as_deref(), &filter.not_types, &event.pdu.kind().to_string()))
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(event),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(event),
        }
}

fn has_url(event: &StoredEvent) -> bool {
    #[derive(Deserialize)]
    struct WithUrl {
        #[expect(dead_code, reason = "only its presence counts")]
        url: String,
    }
    event.pdu.content_as::<WithUrl>().is_ok()
}

/// Does a type match a pattern in which `*` stands for any run of characters?
fn type_matches(pattern: &str, event_type: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = event_type.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else {
        // No star at all.
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, yes, no) in [
            ("m.room.message", "m.room.message", "m.room.messages"),
            ("m.room.*", "m.room.message", "m.reaction"),
            ("*", "anything", ""),
            ("*.message", "m.room.message", "m.room.messages"),
            ("m.*.me*age", "m.room.message", "m.room.mesage.x"),
            ("a*a", "aba", "a"),
        ] {
            assert!(type_matches(pattern, yes), "{pattern} {yes}");
            if !no.is_empty() {
                assert!(!type_matches(pattern, no), "{pattern} {no}");
            }
        }
        assert!(type_matches("*", ""));
    }

    #[test]
    fn exclusions_win() {
        let types = ["m.*".to_owned()];
        let not = ["m.reaction".to_owned()];
        assert!(wants_type(Some(&types), &not, "m.sticker"));
        assert!(!wants_type(Some(&types), &not, "m.reaction"));
        assert!(!wants_type(Some(&[]), &[], "m.sticker"));
        assert!(wants_type(None, &[], "m.sticker"));
    }

    #[test]
    fn reads_relation_conditions() {
        let filter = TimelineFilter::parse(
            r#"{"related_by_rel_types":["m.thread"],"lazy_load_members":true,"limit":3}"#,
        )
        .unwrap();
        assert!(filter.asks_relations() && filter.lazy_load_members());
        assert!(TimelineFilter::parse(r#"{"types":7}"#).is_err());
        assert!(TimelineFilter::parse("nonsense").is_err());
    }
}
