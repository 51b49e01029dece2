//! What the push rules of one user say about events of one room (CS "Push Rules"): the one place where rules
//! are evaluated, for unread counts, for push and for `/notifications`.

use std::{collections::HashSet, sync::Arc};

use hearth_rooms::{
    Rooms,
    read::{JoinedMember, ReadMarks},
    schema::{Membership, RoomHead, StoredEvent, UserRoomRow},
    state::StateRoot,
};
use hearth_types::{Pdu, StreamPosition};
use hearth_users::ReadPositions;
use quick_cache::sync::Cache;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{AnySyncTimelineEvent, room::power_levels::RoomPowerLevelsEventContent},
    push::{Action, FlattenedJson, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
    room_version_rules::RoomPowerLevelsRules,
    serde::Raw,
};
use serde::Deserialize;

use crate::{SyncError, SyncService, service::Inner};

/// Rooms whose power levels are kept as conditions of push rules ask for them.
const MAX_LEVELS: usize = 10_000;

/// Power levels of rooms as of a state; all members of a room share them.
pub(crate) type LevelsCache = Cache<OwnedRoomId, (StateRoot, Option<PushConditionPowerLevelsCtx>)>;

/// An empty cache of power levels.
pub(crate) fn levels_cache() -> LevelsCache {
    Cache::new(MAX_LEVELS)
}

/// Applies one user's push rules to events of one room, by what the room is now.
#[derive(Clone, Debug)]
pub struct Judge {
    pub(crate) rules: Arc<Ruleset>,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    context: PushConditionRoomCtx,
}

impl Judge {
    /// What the rules say is to be done, if the event notifies the user. One's own events never do, nor do
    /// those of whom one ignores.
    pub async fn actions(&self, event: &Pdu) -> Option<&[Action]> {
        if !self.listens_to(event.sender()) {
            return None;
        }
        self.actions_for(&FlatEvent::of(event)?).await
    }

    /// The same for an event that several users' rules look at.
    pub async fn actions_for(&self, event: &FlatEvent) -> Option<&[Action]> {
        if !self.listens_to(&event.sender) {
            return None;
        }
        for rule in self.rules.iter() {
            if rule.applies(&event.fields, &self.context).await {
                let actions = rule.actions();
                return actions.iter().any(Action::should_notify).then_some(actions);
            }
        }
        None
    }

    fn listens_to(&self, sender: &UserId) -> bool {
        sender != self.context.user_id && !self.ignored.contains(sender)
    }
}

/// An event as the conditions of push rules look at it. To read it costs more than to judge it: whoever asks
/// several users' rules reads it once.
#[derive(Debug)]
pub struct FlatEvent {
    sender: OwnedUserId,
    fields: FlattenedJson,
}

impl FlatEvent {
    /// Reads an event; `None` if it is no JSON object.
    #[must_use]
    pub fn of(event: &Pdu) -> Option<Self> {
        let json = std::str::from_utf8(event.json()).ok()?;
        let raw: Raw<AnySyncTimelineEvent> = Raw::from_json_string(json.to_owned()).ok()?;
        Some(Self { sender: event.sender().to_owned(), fields: FlattenedJson::from_raw(&raw) })
    }
}

impl SyncService {
    /// A judge of events of a room for a user who is in it or is invited; `row` is their row about it.
    pub async fn judge(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<Judge, SyncError> {
        let ignored = self.inner.users.ignored_users(user_id).await?;
        self.inner.judge_of(user_id, room_id, row, &ignored).await
    }

    /// How far a user has read a room; `row` is their row about it.
    pub async fn read_marks(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<ReadMarks, SyncError> {
        self.inner.read_marks(user_id, room_id, row).await
    }
}

/// Has somebody with these marks read this event, which stands at this position?
#[must_use]
pub fn is_read(marks: &ReadMarks, event: &StoredEvent, position: StreamPosition) -> bool {
    let mark = match thread_of(event) {
        None => marks.main_timeline(),
        Some(root) => marks.thread(&root),
    };
    position <= mark
}

/// How far somebody has read a room, by their row about it and their receipts.
pub(crate) fn marks(row: &UserRoomRow, positions: ReadPositions) -> ReadMarks {
    let at = |position: Option<u64>| StreamPosition::new(position.unwrap_or_default());
    let threads = positions.threads.into_iter();
    ReadMarks {
        joined_at: row.joined_at,
        unthreaded: at(positions.unthreaded),
        main: at(positions.main),
        threads: threads.map(|(root, position)| (root, at(Some(position)))).collect(),
    }
}

impl Inner {
    pub(crate) async fn read_marks(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<ReadMarks, SyncError> {
        Ok(marks(row, self.users.read_positions(user_id, room_id).await?))
    }

    pub(crate) async fn judge_of(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
        ignored: &Arc<HashSet<OwnedUserId>>,
    ) -> Result<Judge, SyncError> {
        let rules = self.users.push_rules(user_id).await?;
        let context = self.push_context(user_id, room_id, row).await?;
        Ok(Judge { rules, ignored: Arc::clone(ignored), context })
    }

    /// What conditions of push rules ask about the room, as it is now.
    async fn push_context(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<PushConditionRoomCtx, SyncError> {
        let display_name = if row.details.is_out_of_band() {
            None
        } else {
            let member = self.rooms.event(room_id, row.details.event).await?;
            member.pdu.content_as::<JoinedMember>().ok().and_then(|member| member.display_name)
        };
        let head = self.rooms.head(room_id).await?;
        let members = head.as_ref().map_or(0, |head| head.joined_members);
        let context = PushConditionRoomCtx::new(
            room_id.to_owned(),
            UInt::new_saturating(members),
            user_id.to_owned(),
            display_name.unwrap_or_else(|| user_id.localpart().to_owned()),
        );
        // Whoever is not in the room is judged without its state.
        let head = head.filter(|_| row.details.membership == Membership::Join);
        let levels = match head {
            Some(head) => self.known_power_levels(room_id, &head).await?,
            None => None,
        };
        Ok(match levels {
            Some(levels) => context.with_power_levels(levels),
            None => context,
        })
    }

    async fn known_power_levels(
        &self,
        room_id: &RoomId,
        head: &RoomHead,
    ) -> Result<Option<PushConditionPowerLevelsCtx>, SyncError> {
        if let Some((state, levels)) = self.levels.get(room_id)
            && state == head.state
        {
            return Ok(levels);
        }
        let levels = power_levels(&self.rooms, room_id, head).await?;
        self.levels.insert(room_id.to_owned(), (head.state, levels.clone()));
        Ok(levels)
    }
}

async fn power_levels(
    rooms: &Rooms,
    room_id: &RoomId,
    head: &RoomHead,
) -> Result<Option<PushConditionPowerLevelsCtx>, SyncError> {
    #[derive(Deserialize)]
    struct Create {
        #[serde(default)]
        additional_creators: Vec<OwnedUserId>,
    }
    let Some(rules) = head.version.rules() else { return Ok(None) };
    let create = rooms.state_event(room_id, head.state, "m.room.create", "").await?;
    let Some(create) = create else { return Ok(None) };
    let mut creators = vec![create.pdu.sender().to_owned()];
    if let Ok(content) = create.pdu.content_as::<Create>() {
        creators.extend(content.additional_creators);
    }
    let levels = rooms.state_event(room_id, head.state, "m.room.power_levels", "").await?;
    let content: RoomPowerLevelsEventContent = match levels {
        Some(levels) => match levels.pdu.content_as() {
            Ok(content) => content,
            Err(_) => return Ok(None),
        },
        None => RoomPowerLevelsEventContent::new(&rules.authorization),
    };
    Ok(Some(PushConditionPowerLevelsCtx::new(
        content.users,
        content.users_default,
        content.notifications,
        RoomPowerLevelsRules::new(&rules.authorization, creators),
    )))
}

/// The thread that an event is a reply in.
pub(crate) fn thread_of(event: &StoredEvent) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<RelatesTo>,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: Option<String>,
        event_id: Option<OwnedEventId>,
    }
    let content: Content = event.pdu.content_as().ok()?;
    let relates_to = content.relates_to?;
    (relates_to.rel_type.as_deref() == Some("m.thread")).then_some(relates_to.event_id).flatten()
}
