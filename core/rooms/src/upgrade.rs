//! Replacing a room by one of another version (CS "Room upgrades").
//!
//! The new room comes first and the tombstone after it: a crash between the two leaves the old room
//! in use beside a new one that nobody was pointed to, and never a tombstone that leads nowhere.

use hearth_storage::{Commit, CommitError, Direction};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    UserId, events::TimelineEventType,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    MemberProfile, Rooms,
    create::{PlannedState, RoomPlan, TOMBSTONE_LEVEL, add_creators, supported_rules},
    error::RoomError,
    schema::{self, AliasRow, EventOrdinal, Membership, RoomHead},
    writer::{Action, NewEvent, parse_object, to_object},
};

/// State that the new room takes over as it is (CS "Server behaviour").
const COPIED: &[&str] = &[
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];
/// Children of a space that are taken over.
const MAX_CHILDREN: usize = 1_000;
/// Bans that are taken over.
const MAX_BANS: usize = 10_000;
/// Rows read at a time.
const PAGE: usize = 100;
/// The level that a creator has before room version 12 while the new room is furnished.
const FURNISHING_LEVEL: i64 = 100;

/// The old room, as the upgrade sees it.
struct OldRoom<'a> {
    room_id: &'a RoomId,
    head: std::sync::Arc<RoomHead>,
}

impl Rooms {
    /// Replaces a room by a new one of another version, with the old one's essential state and its
    /// bans, and points to it with a tombstone. Aliases and the directory entry move; the old room is
    /// muted where the user may do that. Returns the new room.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::Forbidden`] if the user may not send the
    /// tombstone; [`RoomError::InvalidParam`] if the version knows no additional creators.
    pub async fn upgrade(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        new_version: RoomVersionId,
        additional_creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, RoomError> {
        supported_rules(&new_version)?;
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if !self.may_send_state(room_id, user_id, &TimelineEventType::RoomTombstone).await? {
            let text = "you do not have enough power to replace this room";
            return Err(RoomError::Forbidden(text.to_owned()));
        }
        let old = OldRoom { room_id, head };
        let (plan, final_levels) =
            self.plan_upgrade(&old, user_id, profile, new_version, &additional_creators).await?;
        let new_id = self.make_room(user_id, plan).await?;
        self.copy_children(&old, &new_id, user_id).await?;
        self.copy_bans(&old, &new_id, user_id).await?;

        let tombstone =
            json!({ "body": "This room has been replaced", "replacement_room": new_id });
        self.put_state(room_id, user_id, "m.room.tombstone", "", to_object(tombstone)?).await?;
        self.move_aliases(&old, &new_id, user_id).await?;
        self.move_publication(room_id, &new_id).await?;
        if let Some(levels) = final_levels {
            self.put_state(&new_id, user_id, "m.room.power_levels", "", levels).await?;
        }
        self.mute(&old, user_id).await;
        Ok(new_id)
    }

    /// The room that this one replaces, if each of the two says so and the other is here. What this
    /// server has of it moves along: aliases and the directory's entry. To be called when a user of this
    /// server has joined: another server's upgrade reaches neither.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`], and those of the store.
    pub async fn succeed(&self, room_id: &RoomId) -> Result<Option<OwnedRoomId>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let create = self.state_event(room_id, head.state, "m.room.create", "").await?;
        let Some(old_id) = create.and_then(|event| predecessor(event.pdu.content())) else {
            return Ok(None);
        };
        let Some(old_head) = self.head(&old_id).await? else { return Ok(None) };
        // Anybody can name any room as the one that they replace.
        let tombstone = self.state_event(&old_id, old_head.state, "m.room.tombstone", "").await?;
        if tombstone.and_then(|event| replacement(event.pdu.content())).as_deref() != Some(room_id)
        {
            return Ok(None);
        }
        self.lead_aliases(&old_id, room_id).await?;
        self.move_publication(&old_id, room_id).await?;
        Ok(Some(old_id))
    }

    /// What the new room starts with, and the power levels that it gets in the end if they differ.
    async fn plan_upgrade(
        &self,
        old: &OldRoom<'_>,
        user_id: &UserId,
        profile: &MemberProfile,
        version: RoomVersionId,
        additional_creators: &[OwnedUserId],
    ) -> Result<(RoomPlan, Option<CanonicalJsonObject>), RoomError> {
        let rules = supported_rules(&version)?.authorization;
        let mut create = CanonicalJsonObject::new();
        if let Some(before) = self.old_state(old, "m.room.create", "").await? {
            let kept = before.into_iter().filter(|(key, _)| key == "type" || key == "m.federate");
            create.extend(kept);
        }
        let mut predecessor = json!({ "room_id": old.room_id });
        if let (Some(last), Some(fields)) =
            (old.head.extremities.first(), predecessor.as_object_mut())
        {
            let event = self.event(old.room_id, *last).await?;
            fields.insert("event_id".to_owned(), json!(event.header.event_id));
        }
        create.insert("predecessor".to_owned(), to_object(predecessor)?.into());
        if rules.additional_room_creators {
            let more: Vec<&UserId> = additional_creators.iter().map(AsRef::as_ref).collect();
            add_creators(&mut create, user_id, &more)?;
        } else if !additional_creators.is_empty() {
            let text = "additional creators came with room version 12";
            return Err(RoomError::InvalidParam(text.to_owned()));
        }
        let mut levels = self.old_state(old, "m.room.power_levels", "").await?.unwrap_or_default();
        let mut final_levels = None;
        if rules.explicitly_privilege_room_creators {
            privilege_creators(&mut levels, user_id, additional_creators)?;
        } else {
            final_levels = furnish_levels(&mut levels, user_id, &old.head.version)?;
        }
        let mut state: Vec<PlannedState> =
            vec![("m.room.power_levels".to_owned(), String::new(), levels)];
        for event_type in COPIED {
            if let Some(content) = self.old_state(old, event_type, "").await? {
                state.push(((*event_type).to_owned(), String::new(), content));
            }
        }
        let plan = RoomPlan {
            version,
            create,
            profile: profile.clone(),
            state,
            invites: Vec::new(),
            remote_invites: Vec::new(),
            is_direct: false,
            public: false,
            alias: None,
        };
        Ok((plan, final_levels))
    }

    /// The content of a state event of the old room.
    async fn old_state(
        &self,
        old: &OldRoom<'_>,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<CanonicalJsonObject>, RoomError> {
        let event = self.state_event(old.room_id, old.head.state, event_type, state_key).await?;
        event.map(|event| parse_object(event.pdu.content())).transpose()
    }

    /// Sends state in the user's name.
    async fn put_state(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event_type: &str,
        state_key: &str,
        content: CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let now = self.clock().now();
        let event = NewEvent::state(user_id.to_owned(), event_type, state_key, content, now);
        self.act_event(room_id, Action::Append(event)).await.map(drop)
    }

    /// Takes over the children of a space that are still part of it.
    async fn copy_children(
        &self,
        old: &OldRoom<'_>,
        new_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let room_id = old.room_id.to_owned();
        let child_type = "m.space.child".to_owned();
        // The smallest key of any type that follows.
        let end = (format!("{child_type}\u{1}"), String::new());
        let mut start = std::ops::Bound::Included((child_type, String::new()));
        for _ in 0..MAX_CHILDREN.div_ceil(PAGE) {
            let range = (start, std::ops::Bound::Excluded(end.clone()));
            let page = self
                .store()
                .page(&schema::STATE_KEYS, &room_id, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                break;
            };
            start = std::ops::Bound::Excluded(last.clone());
            for ((event_type, child), _) in page {
                let content = self.old_state(old, &event_type, &child).await?;
                if let Some(content) = content.filter(|content| content.contains_key("via")) {
                    self.put_state(new_id, user_id, &event_type, &child, content).await?;
                }
            }
        }
        Ok(())
    }

    /// Keeps out of the new room who was kept out of the old one.
    async fn copy_bans(
        &self,
        old: &OldRoom<'_>,
        new_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let room_id = old.room_id.to_owned();
        let mut after: Option<OwnedUserId> = None;
        let mut bans = 0;
        while bans < MAX_BANS {
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let range = (from, std::ops::Bound::Unbounded);
            let page = self
                .store()
                .page(&schema::MEMBERS, &room_id, range, Direction::Forward, PAGE)
                .await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(user_id, _)| user_id.clone());
            for (target, row) in page {
                if row.membership == Membership::Ban {
                    bans += 1;
                    let reason = self.ban_reason(old.room_id, row.event).await?;
                    self.ban(new_id, user_id, &target, reason.as_deref()).await?;
                }
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    async fn ban_reason(
        &self,
        room_id: &RoomId,
        ordinal: EventOrdinal,
    ) -> Result<Option<String>, RoomError> {
        let event = self.event(room_id, ordinal).await?;
        let content = parse_object(event.pdu.content())?;
        Ok(content.get("reason").and_then(CanonicalJsonValue::as_str).map(str::to_owned))
    }

    /// Leads the old room's aliases to the new one, and names them there.
    async fn move_aliases(
        &self,
        old: &OldRoom<'_>,
        new_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        self.lead_aliases(old.room_id, new_id).await?;
        let Some(content) = self.old_state(old, "m.room.canonical_alias", "").await? else {
            return Ok(());
        };
        self.put_state(new_id, user_id, "m.room.canonical_alias", "", content).await?;
        let empty = CanonicalJsonObject::new();
        let cleared =
            self.put_state(old.room_id, user_id, "m.room.canonical_alias", "", empty).await;
        if let Err(error) = cleared {
            tracing::debug!(room_id = %old.room_id, %error, "the old room keeps its alias event");
        }
        Ok(())
    }

    /// Lets this server's aliases of the old room name the new one.
    async fn lead_aliases(&self, old_id: &RoomId, new_id: &RoomId) -> Result<(), RoomError> {
        for alias in self.room_aliases(old_id).await? {
            let Some(row) = self.store().get(&schema::ALIASES, &alias, &()).await? else {
                continue;
            };
            let moved = AliasRow { room_id: new_id.to_owned(), creator: row.creator.clone() };
            let mut commit = Commit::new(&alias);
            commit.require(&schema::ALIASES, &alias, &(), &row);
            commit.put(&schema::ALIASES, &alias, &(), &moved);
            commit.effect_delete(&schema::ROOM_ALIASES, &row.room_id, &alias);
            commit.effect_put(&schema::ROOM_ALIASES, &moved.room_id, &alias, &());
            match self.store().commit(commit).await {
                // Somebody changed the alias meanwhile: it is theirs.
                Ok(_) | Err(CommitError::Precondition) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Shows the new room in the directory in the place of the old one.
    async fn move_publication(&self, old_id: &RoomId, new_id: &RoomId) -> Result<(), RoomError> {
        if !self.is_published(old_id).await? {
            return Ok(());
        }
        let mut commit = Commit::new(&());
        commit.delete(&schema::PUBLIC_ROOMS, &(), &old_id.to_owned());
        commit.put(&schema::PUBLIC_ROOMS, &(), &new_id.to_owned(), &());
        self.store().commit(commit).await?;
        Ok(())
    }

    /// Asks for more power than users have by default to speak in the old room or invite to it.
    async fn mute(&self, old: &OldRoom<'_>, user_id: &UserId) {
        let muted = async {
            let mut levels =
                self.old_state(old, "m.room.power_levels", "").await?.unwrap_or_default();
            let level = |name: &str, default: i64| {
                levels.get(name).and_then(CanonicalJsonValue::as_integer).map_or(default, i64::from)
            };
            let quiet = level("users_default", 0).saturating_add(1).max(50);
            let changes: Vec<&str> = ["events_default", "invite"]
                .into_iter()
                .filter(|name| level(name, 0) < quiet)
                .collect();
            for name in &changes {
                levels.insert((*name).to_owned(), level_value(quiet));
            }
            if changes.is_empty() {
                return Ok(());
            }
            self.put_state(old.room_id, user_id, "m.room.power_levels", "", levels).await
        };
        let muted: Result<(), RoomError> = muted.await;
        if let Err(error) = muted {
            tracing::debug!(room_id = %old.room_id, %error, "the old room is not muted");
        }
    }
}

/// The room that an `m.room.create` says is replaced.
fn predecessor(content: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Create {
        predecessor: Predecessor,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let create: Create = serde_json::from_str(content.get()).ok()?;
    Some(create.predecessor.room_id)
}

/// The room to which an `m.room.tombstone` points.
fn replacement(content: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Tombstone {
        replacement_room: OwnedRoomId,
    }
    let tombstone: Tombstone = serde_json::from_str(content.get()).ok()?;
    Some(tombstone.replacement_room)
}

fn level_value(level: i64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::new_saturating(level))
}

/// A map inside of power levels; made if it is not there.
fn map_mut<'a>(
    levels: &'a mut CanonicalJsonObject,
    name: &str,
) -> Result<&'a mut CanonicalJsonObject, RoomError> {
    let value = levels
        .entry(name.to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    value.as_object_mut().ok_or_else(|| RoomError::BadJson(format!("{name} is not an object")))
}

/// From room version 12 on creators have no level of their own, and a tombstone asks for more than
/// administrators have.
fn privilege_creators(
    levels: &mut CanonicalJsonObject,
    user_id: &UserId,
    additional_creators: &[OwnedUserId],
) -> Result<(), RoomError> {
    let users = map_mut(levels, "users")?;
    users.remove(user_id.as_str());
    for creator in additional_creators {
        users.remove(creator.as_str());
    }
    let events = map_mut(levels, "events")?;
    let tombstone = events.get("m.room.tombstone").and_then(CanonicalJsonValue::as_integer);
    if tombstone.is_none_or(|level| i64::from(level) < TOMBSTONE_LEVEL) {
        events.insert("m.room.tombstone".to_owned(), level_value(TOMBSTONE_LEVEL));
    }
    Ok(())
}

/// Before room version 12: gives the user enough power to furnish the new room. Returns the levels
/// that the room gets in the end if they are others.
fn furnish_levels(
    levels: &mut CanonicalJsonObject,
    user_id: &UserId,
    old_version: &RoomVersionId,
) -> Result<Option<CanonicalJsonObject>, RoomError> {
    let before = levels.clone();
    // A creator of version 12 has no level to copy.
    let was_creator = old_version
        .rules()
        .is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators);
    let users = map_mut(levels, "users")?;
    let level = users.get(user_id.as_str()).and_then(CanonicalJsonValue::as_integer);
    if level.is_some_and(|level| i64::from(level) >= FURNISHING_LEVEL) {
        return Ok(None);
    }
    users.insert(user_id.as_str().to_owned(), level_value(FURNISHING_LEVEL));
    Ok((level.is_some() && !was_creator).then_some(before))
}
