//! Aliases of this server's rooms: each one is its own owner.
//!
//! An alias is made before anything names it, and deleted after nothing should: a crash between the
//! two leaves an alias that leads to a room, or to a room that was never made, which counts as none
//! and may be made again.

use hearth_storage::{Commit, CommitError, Direction};
use hearth_types::limits::MAX_ID_BYTES;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId,
    UserId, events::TimelineEventType,
};

use crate::{
    Rooms,
    error::RoomError,
    schema::{self, AliasRow},
    writer::{Action, NewEvent, Power, parse_object},
};

/// Aliases of one room that are listed, and alternative aliases that an event may name.
const MAX_ALIASES: usize = 1_000;
/// Rows read at a time.
const PAGE: usize = 100;

impl Rooms {
    /// Makes an alias for a room. The caller has checked that the user may (members may).
    ///
    /// # Errors
    ///
    /// [`RoomError::AliasInUse`] if it leads somewhere already; [`RoomError::InvalidParam`] if it is
    /// not one of this server's.
    pub async fn create_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        creator: &UserId,
    ) -> Result<(), RoomError> {
        self.check_own_alias(alias)?;
        if self.head(room_id).await?.is_none() {
            return Err(RoomError::UnknownRoom);
        }
        self.claim_alias(alias, room_id, creator).await
    }

    /// Is the alias one that this server can make?
    pub(crate) fn check_own_alias(&self, alias: &RoomAliasId) -> Result<(), RoomError> {
        let invalid = |text: &str| Err(RoomError::InvalidParam(text.to_owned()));
        if alias.server_name() != self.identity().server_name() {
            return invalid("the alias belongs to another server");
        }
        if alias.as_str().len() > MAX_ID_BYTES {
            return invalid("the alias is too long");
        }
        if alias.alias().is_empty() || alias.alias().contains([':', '\0']) || has_space(alias) {
            return invalid("the alias has characters that are not allowed");
        }
        Ok(())
    }

    /// Writes an alias's row, unless the alias leads to a room that exists.
    pub(crate) async fn claim_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        creator: &UserId,
    ) -> Result<(), RoomError> {
        let alias = alias.to_owned();
        let row = AliasRow { room_id: room_id.to_owned(), creator: creator.to_owned() };
        let mut commit = Commit::new(&alias);
        match self.store().get(&schema::ALIASES, &alias, &()).await? {
            Some(old) if self.head(&old.room_id).await?.is_some() => {
                return Err(RoomError::AliasInUse);
            }
            Some(old) => commit.require(&schema::ALIASES, &alias, &(), &old),
            None => commit.require_absent(&schema::ALIASES, &alias, &()),
        }
        commit.put(&schema::ALIASES, &alias, &(), &row);
        commit.effect_put(&schema::ROOM_ALIASES, &row.room_id, &alias, &());
        match self.store().commit(commit).await {
            Ok(_) => Ok(()),
            Err(CommitError::Precondition) => Err(RoomError::AliasInUse),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an alias back that [`Self::claim_alias`] has made for a room that did not come to be.
    pub(crate) async fn release_alias(&self, alias: &RoomAliasId, row: &AliasRow) {
        let alias = alias.to_owned();
        let mut commit = Commit::new(&alias);
        commit.require(&schema::ALIASES, &alias, &(), row);
        commit.delete(&schema::ALIASES, &alias, &());
        commit.effect_delete(&schema::ROOM_ALIASES, &row.room_id, &alias);
        if let Err(error) = self.store().commit(commit).await {
            tracing::warn!(%alias, %error, "an alias of no room could not be taken back");
        }
    }

    /// Where an alias of this server leads.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, RoomError> {
        let row = self.store().get(&schema::ALIASES, &alias.to_owned(), &()).await?;
        let room_id = row.ok_or(RoomError::UnknownAlias)?.room_id;
        match self.head(&room_id).await? {
            Some(_) => Ok(room_id),
            None => Err(RoomError::UnknownAlias),
        }
    }

    /// The aliases of a room, at most 1,000.
    pub async fn room_aliases(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let room_id = room_id.to_owned();
        let mut aliases: Vec<OwnedRoomAliasId> = Vec::new();
        while aliases.len() < MAX_ALIASES {
            let after = aliases.last().cloned();
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let range = (from, std::ops::Bound::Unbounded);
            let page = self
                .store()
                .page(&schema::ROOM_ALIASES, &room_id, range, Direction::Forward, PAGE)
                .await?;
            let last_page = page.len() < PAGE;
            aliases.extend(page.into_iter().map(|(alias, ())| alias));
            if last_page {
                break;
            }
        }
        Ok(aliases)
    }

    /// Deletes an alias: its creator may, and who may send the room's `m.room.canonical_alias`. The
    /// room's canonical alias event stops naming it where the user may change that.
    pub async fn delete_alias(
        &self,
        alias: &RoomAliasId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let owned = alias.to_owned();
        let row = self.store().get(&schema::ALIASES, &owned, &()).await?;
        let row = row.ok_or(RoomError::UnknownAlias)?;
        let may_change = self
            .may_send_state(&row.room_id, user_id, &TimelineEventType::RoomCanonicalAlias)
            .await?;
        if row.creator != *user_id && !may_change {
            return Err(RoomError::Forbidden("the alias was made by somebody else".to_owned()));
        }
        let mut commit = Commit::new(&owned);
        commit.require(&schema::ALIASES, &owned, &(), &row);
        commit.delete(&schema::ALIASES, &owned, &());
        commit.effect_delete(&schema::ROOM_ALIASES, &row.room_id, &owned);
        match self.store().commit(commit).await {
            Ok(_) => {}
            Err(CommitError::Precondition) => return Err(RoomError::UnknownAlias),
            Err(error) => return Err(error.into()),
        }
        if may_change {
            self.stop_naming(&row.room_id, user_id, alias).await;
        }
        Ok(())
    }

    /// Has a user the power, and are they joined, to send a kind of state event?
    pub(crate) async fn may_send_state(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event_type: &TimelineEventType,
    ) -> Result<bool, RoomError> {
        let Some(head) = self.head(room_id).await? else {
            return Ok(false);
        };
        let joined = self.member_row(room_id, user_id).await?;
        if joined.is_none_or(|row| row.membership != schema::Membership::Join) {
            return Ok(false);
        }
        let rules = head
            .version
            .rules()
            .ok_or_else(|| RoomError::UnsupportedVersion(head.version.to_string()))?;
        let create = self
            .state_event(room_id, head.state, "m.room.create", "")
            .await?
            .ok_or_else(|| RoomError::internal("a room without a create event"))?;
        let levels = self.state_event(room_id, head.state, "m.room.power_levels", "").await?;
        let levels = levels.as_ref().map(|event| &event.pdu);
        Power::new(&rules.authorization, &create.pdu, levels)?.can_send_state(user_id, event_type)
    }

    /// Takes a deleted alias out of the room's canonical alias event, if it is there.
    async fn stop_naming(&self, room_id: &RoomId, user_id: &UserId, alias: &RoomAliasId) {
        let result = async {
            let mut content = self.canonical_alias(room_id).await?;
            let named = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
            let before = content.clone();
            if content.get("alias").is_some_and(named) {
                content.remove("alias");
            }
            if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
                others.retain(|other| !named(other));
            }
            if content == before {
                return Ok(());
            }
            let event = NewEvent::state(
                user_id.to_owned(),
                "m.room.canonical_alias",
                "",
                content,
                self.clock().now(),
            );
            self.act_event(room_id, Action::Append(event)).await.map(drop)
        };
        let result: Result<(), RoomError> = result.await;
        if let Err(error) = result {
            tracing::debug!(%room_id, %error, "the canonical alias still names a deleted alias");
        }
    }

    /// The content of the room's current `m.room.canonical_alias`; empty if there is none.
    async fn canonical_alias(&self, room_id: &RoomId) -> Result<CanonicalJsonObject, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        match self.state_event(room_id, head.state, "m.room.canonical_alias", "").await? {
            Some(event) => parse_object(event.pdu.content()),
            None => Ok(CanonicalJsonObject::new()),
        }
    }

    /// Checks an `m.room.canonical_alias` content: what it newly names must lead to the room (CS
    /// "m.room.canonical_alias").
    pub(crate) async fn check_canonical_alias(
        &self,
        room_id: &RoomId,
        content: &CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let old = aliases_of(&self.canonical_alias(room_id).await?).unwrap_or_default();
        let new = aliases_of(content)?;
        for alias in new.into_iter().filter(|alias| !old.contains(alias)) {
            match self.find_alias(&alias).await {
                Ok(found) if found.room_id == *room_id => {}
                Ok(_) | Err(RoomError::UnknownAlias | RoomError::Remote(_)) => {
                    return Err(RoomError::BadAlias(alias));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Has an alias blanks in it?
fn has_space(alias: &RoomAliasId) -> bool {
    alias.as_str().chars().any(char::is_whitespace)
}

/// All aliases that an `m.room.canonical_alias` content names.
fn aliases_of(content: &CanonicalJsonObject) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
    let invalid = || RoomError::InvalidParam("not an alias".to_owned());
    let main = content.get("alias").filter(|value| {
        // Clients clear the alias with null or an empty string.
        !matches!(value, CanonicalJsonValue::Null) && value.as_str() != Some("")
    });
    let others = match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => &[],
        Some(others) => others.as_array().ok_or_else(invalid)?,
    };
    if others.len() > MAX_ALIASES {
        return Err(RoomError::InvalidParam("too many aliases".to_owned()));
    }
    let parse = |value: &CanonicalJsonValue| {
        let alias = value.as_str().ok_or_else(invalid)?;
        RoomAliasId::parse(alias).map_err(|_| invalid())
    };
    main.into_iter().chain(others).map(parse).collect()
}
