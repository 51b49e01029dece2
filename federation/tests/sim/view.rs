//! What a server holds of a room, and how that differs from what another one holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use hearth_rooms::{RoomError, Rooms, read::StatePart, schema::Standing};
use ruma::{OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};

/// What a server holds of a room.
#[derive(Default)]
pub(crate) struct View {
    /// Events that are part of the room's graph here, soft-failed ones too: which ones those are
    /// differs from server to server, since it depends on when an event arrives.
    /// By what they are.
    pub(crate) events: BTreeMap<OwnedEventId, String>,
    state: BTreeMap<(String, String), OwnedEventId>,
    /// The joins in the state.
    joins: BTreeMap<OwnedUserId, OwnedEventId>,
    /// Events by those that they follow.
    followers: BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
}

#[derive(serde::Deserialize)]
struct Membership {
    membership: String,
}

impl View {
    /// What is here of the room; `None` if it is not here.
    pub(crate) async fn of(rooms: &Rooms, room_id: &RoomId) -> Result<Option<Self>, String> {
        let failed = |error: RoomError| error.to_string();
        let Some(head) = rooms.head(room_id).await.map_err(failed)? else { return Ok(None) };
        let ordinals: Vec<u32> = (0..head.next_event).collect();
        let mut view = Self::default();
        for event in rooms.events(room_id, &ordinals).await.map_err(failed)? {
            if matches!(event.header.standing, Standing::Accepted | Standing::SoftFailed) {
                let what = format!("{} of {}", event.pdu.kind(), event.pdu.sender());
                let event_id = &event.header.event_id;
                view.events.insert(event_id.clone(), what);
                for before in event.pdu.prev_events() {
                    view.followers.entry(before.clone()).or_default().push(event_id.clone());
                }
            }
        }
        let state = rooms.state_events(room_id, head.state, StatePart::All).await;
        for event in state.map_err(failed)? {
            let key = event.pdu.state_key().unwrap_or_default().to_owned();
            let membership = event.pdu.content_as::<Membership>().ok();
            if membership.is_some_and(|content| content.membership == "join")
                && let Ok(user_id) = UserId::parse(&key)
            {
                view.joins.insert(user_id, event.header.event_id.clone());
            }
            view.state.insert((event.pdu.kind().to_string(), key), event.header.event_id.clone());
        }
        Ok(Some(view))
    }

    /// The joins of a server's users in the state.
    pub(crate) fn joins_of(&self, server: &ServerName) -> impl Iterator<Item = &OwnedEventId> {
        let of_server = self.joins.iter().filter(move |(user, _)| user.server_name() == server);
        of_server.map(|(_, event_id)| event_id)
    }

    /// Events that follow one, directly or not.
    fn after(&self, event_id: &OwnedEventId) -> BTreeSet<&OwnedEventId> {
        let mut found = BTreeSet::new();
        let mut next = vec![event_id];
        while let Some(event_id) = next.pop() {
            for follower in self.followers.get(event_id).into_iter().flatten() {
                if found.insert(follower) {
                    next.push(follower);
                }
            }
        }
        found
    }

    /// The first view's events and state against the other's. Those of `but` need not be everywhere.
    pub(crate) fn differs(
        &self,
        other: &Self,
        but: &BTreeMap<OwnedEventId, String>,
    ) -> Option<String> {
        let mut text = String::new();
        for (which, here, there) in [("first", self, other), ("second", other, self)] {
            for (event_id, what) in &here.events {
                if !there.events.contains_key(event_id) && !but.contains_key(event_id) {
                    write!(text, "only the {which} has {event_id} ({what}); ").unwrap();
                }
            }
        }
        text.push_str(&self.state_differs(other));
        (!text.is_empty()).then_some(text)
    }

    fn state_differs(&self, other: &Self) -> String {
        let mut text = String::new();
        let keys: BTreeSet<_> = self.state.keys().chain(other.state.keys()).collect();
        for key in keys {
            let (here, there) = (self.state.get(key), other.state.get(key));
            if here != there {
                write!(text, "{key:?}: {here:?} against {there:?}; ").unwrap();
            }
        }
        text
    }

    /// What a server lacks that came later: the state, all that follows these joins of its users. What
    /// it holds, this view holds too.
    pub(crate) fn differs_from_late(&self, late: &Self, joins: &[&OwnedEventId]) -> Option<String> {
        let mut text = String::new();
        for join in joins {
            for event_id in self.after(join) {
                if !late.events.contains_key(event_id) {
                    let what = &self.events[event_id];
                    write!(text, "the late one lacks {event_id} ({what}) after {join}; ").unwrap();
                }
            }
        }
        for (event_id, what) in &late.events {
            if !self.events.contains_key(event_id) {
                write!(text, "only the late one has {event_id} ({what}); ").unwrap();
            }
        }
        text.push_str(&self.state_differs(late));
        (!text.is_empty()).then_some(text)
    }
}
