//! The ledger of what notifies whom: running totals and mentions, written once for each event and not
//! once for each member.
//!
//! A room keeps, at the position of each notifying event, how many there were so far in its scope (the
//! main timeline or one thread); a user's count is a difference of two totals, less their own events,
//! which are counted the same way for each local sender. Mentions write one row for each mentioned
//! local member. A redaction leaves the totals alone and notes the event as uncounted.

use hearth_storage::Topic;
use hearth_types::StreamPosition;
use ruma::{OwnedUserId, UserId};

use crate::{
    error::RoomError,
    schema::{self, MAIN_TIMELINE, MentionRow, ThreadRow, TotalRow, UncountedRow},
    writer::{Batch, Context, Facts, Room},
};

/// What an event that notifies adds to the ledger.
pub(crate) struct LedgerEffect {
    scope: u32,
    total: u64,
    /// The sender's own total, for local senders.
    own: Option<u64>,
    mentions: Vec<OwnedUserId>,
    mentions_room: bool,
}

impl LedgerEffect {
    /// Works out the new totals. `thread` is the row of the event's thread before the event.
    pub(crate) fn plan(
        room: &mut Room,
        view: &Context<'_>,
        sender: &UserId,
        facts: &Facts,
        thread: Option<&ThreadRow>,
    ) -> Result<Option<Self>, RoomError> {
        if !facts.notifies {
            return Ok(None);
        }
        let (scope, before) = match thread {
            Some(row) => (row.root, row.notify_total),
            None => (MAIN_TIMELINE, room.head.notify_total),
        };
        let identity = view.rooms.identity();
        let own = if identity.is_local(sender) {
            Some(room.own_total(view, sender, scope)? + 1)
        } else {
            None
        };
        let mut mentions = Vec::new();
        for user_id in &facts.mentions {
            let concerned = identity.is_local(user_id) && *user_id != sender;
            if concerned && room.is_joined(view, user_id)? {
                mentions.push(user_id.clone());
            }
        }
        let mentions_room = facts.alerts_room
            || facts.mentions_room
                && room.with_power(view, |power| power.can_notify_room(sender))?;
        Ok(Some(Self { scope, total: before + 1, own, mentions, mentions_room }))
    }

    /// Writes the rows.
    pub(crate) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        sender: &UserId,
        position: StreamPosition,
    ) {
        let commit = &mut batch.commit;
        let total = TotalRow(self.total);
        commit.put(&schema::NOTIFY_TOTALS, &room.id, &(self.scope, position), &total);
        if self.scope == MAIN_TIMELINE {
            room.head.notify_total = self.total;
        }
        if let Some(own) = self.own {
            let key = (sender.to_owned(), self.scope, position);
            commit.put(&schema::OWN_TOTALS, &room.id, &key, &TotalRow(own));
            room.local.own_totals.insert((key.0, self.scope), own);
        }
        let mention = MentionRow { scope: self.scope, sender: sender.to_owned() };
        for user_id in self.mentions {
            let key = (room.id.clone(), position);
            commit.effect_put(&schema::MENTIONS, &user_id, &key, &mention);
            // Clients that a large room wakes seldom are woken at once by their user's own topic.
            commit.touch(Topic::new(user_id.as_str()));
        }
        if self.mentions_room {
            commit.put(&schema::ROOM_MENTIONS, &room.id, &position, &mention);
        }
    }
}

/// Takes an event that is redacted out of the ledger.
pub(crate) struct LedgerUndo {
    pub(crate) scope: u32,
    pub(crate) position: StreamPosition,
    pub(crate) sender: OwnedUserId,
    /// Local users that the event mentioned.
    pub(crate) mentions: Vec<OwnedUserId>,
}

impl LedgerUndo {
    /// Writes and deletes the rows.
    pub(crate) fn apply(self, room: &Room, batch: &mut Batch) {
        let row = UncountedRow { sender: self.sender };
        batch.commit.put(&schema::UNCOUNTED, &room.id, &(self.scope, self.position), &row);
        batch.commit.delete(&schema::ROOM_MENTIONS, &room.id, &self.position);
        for user_id in self.mentions {
            let key = (room.id.clone(), self.position);
            batch.commit.effect_delete(&schema::MENTIONS, &user_id, &key);
        }
    }
}
