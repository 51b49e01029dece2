//! A filter with what follows from it and from the configuration (CS "Filtering").

use std::sync::Arc;

use hearth_rooms::{
    read::filter::{wants_kind, wants_room, wants_type},
    schema::StoredEvent,
};
use ruma::{
    RoomId, UserId,
    api::client::filter::{EventFormat, FilterDefinition, LazyLoadOptions, RoomEventFilter},
};

use crate::SyncConfig;

/// A filter, ready for use.
#[derive(Debug)]
pub(crate) struct SyncFilter {
    definition: Arc<FilterDefinition>,
    pub(crate) timeline_limit: usize,
    lazy: LazyLoadOptions,
    pub(crate) thread_counts: bool,
    pub(crate) federation_format: bool,
}

impl SyncFilter {
    pub(crate) fn new(definition: Arc<FilterDefinition>, config: &SyncConfig) -> Self {
        let limit = definition.room.timeline.limit.map(u64::from);
        let timeline_limit = limit
            .map_or(config.default_timeline_limit, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            })
            .min(config.max_timeline_limit);
        Self {
            timeline_limit,
            lazy: definition.room.state.lazy_load_options,
            thread_counts: definition.room.timeline.unread_thread_notifications,
            federation_format: definition.event_format == EventFormat::Federation,
            definition,
        }
    }

    /// Everything, but of each timeline only so many events.
    pub(crate) fn of_limit(timeline_limit: usize) -> Self {
        Self {
            definition: Arc::default(),
            timeline_limit,
            lazy: LazyLoadOptions::Disabled,
            thread_counts: false,
            federation_format: false,
        }
    }

    /// Are memberships sent only of those whom the client needs to know?
    pub(crate) fn lazy_load(&self) -> bool {
        self.lazy != LazyLoadOptions::Disabled
    }

    /// Also of those whom it was told of before?
    pub(crate) fn redundant_members(&self) -> bool {
        self.lazy == LazyLoadOptions::Enabled { include_redundant_members: true }
    }

    pub(crate) fn include_leave(&self) -> bool {
        self.definition.room.include_leave
    }

    pub(crate) fn wants_room(&self, room_id: &RoomId) -> bool {
        let room = &self.definition.room;
        wants_room(room.rooms.as_deref(), &room.not_rooms, room_id)
    }

    /// Does the client want timelines of this room at all?
    pub(crate) fn wants_timeline(&self, room_id: &RoomId) -> bool {
        part_wants_room(&self.definition.room.timeline, room_id)
    }

    pub(crate) fn wants_in_timeline(&self, event: &StoredEvent) -> bool {
        hearth_rooms::read::filter::wants_event(&self.definition.room.timeline, event)
    }

    pub(crate) fn wants_state(&self, room_id: &RoomId) -> bool {
        part_wants_room(&self.definition.room.state, room_id)
    }

    pub(crate) fn wants_in_state(&self, event: &StoredEvent) -> bool {
        hearth_rooms::read::filter::wants_event(&self.definition.room.state, event)
    }

    pub(crate) fn wants_ephemeral(&self, room_id: &RoomId, event_type: &str) -> bool {
        let filter = &self.definition.room.ephemeral;
        part_wants_room(filter, room_id)
            && wants_type(filter.types.as_deref(), &filter.not_types, event_type)
    }

    pub(crate) fn wants_room_account_data(&self, room_id: &RoomId, event_type: &str) -> bool {
        let filter = &self.definition.room.account_data;
        part_wants_room(filter, room_id)
            && wants_type(filter.types.as_deref(), &filter.not_types, event_type)
    }

    pub(crate) fn wants_account_data(&self, event_type: &str) -> bool {
        let filter = &self.definition.account_data;
        wants_type(filter.types.as_deref(), &filter.not_types, event_type)
    }

    pub(crate) fn wants_presence(&self, sender: &UserId) -> bool {
        let filter = &self.definition.presence;
        wants_kind(
            filter.types.as_deref(),
            &filter.not_types,
            filter.senders.as_deref(),
            &filter.not_senders,
            "m.presence",
            sender,
        )
    }

    /// How many presence events at most.
    pub(crate) fn presence_limit(&self) -> usize {
        let limit = self.definition.presence.limit.map(u64::from);
        limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

fn part_wants_room(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}
