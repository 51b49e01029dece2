//! Making rooms (CS "Creation").

use std::collections::HashSet;

use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    RoomAliasId, RoomId, RoomVersionId, UserId, room_version_rules::RoomVersionRules,
};
use serde_json::{json, value::RawValue};

use crate::{
    MemberProfile, Rooms,
    config::SUPPORTED_VERSIONS,
    error::RoomError,
    membership::member_content,
    schema::{self, AliasRow},
    writer::{Batch, Context, NewEvent, Room, StepError, check_event_key, parse_object, to_object},
};

/// Events that a client may put into a new room's initial state: they must fit into one commit.
const MAX_INITIAL_STATE: usize = 80;
/// Users of other servers who are invited to a new room at a time.
const INVITE_CONCURRENCY: usize = 8;
/// The level that a tombstone asks for from room version 12 on.
pub(crate) const TOMBSTONE_LEVEL: i64 = 150;

/// A set of initial state that clients choose by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// By invitation; history is shared with new members.
    PrivateChat,
    /// The same, and everybody who is invited has the creator's power.
    TrustedPrivateChat,
    /// Anyone may join.
    PublicChat,
}

/// Somebody to be invited, with the profile that the invitation shows.
#[derive(Clone, Debug)]
pub struct Invitee {
    /// The user.
    pub user_id: OwnedUserId,
    /// Their profile.
    pub profile: MemberProfile,
}

/// A state event of a new room.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// The type.
    pub event_type: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: Box<RawValue>,
}

/// What a new room shall be like: the body of `POST /createRoom`.
#[derive(Clone, Debug, Default)]
pub struct CreateRoomOptions {
    /// Publish it in the directory?
    pub public: bool,
    /// `None`: the public or the private chat, as `public` says.
    pub preset: Option<Preset>,
    /// The local part of an alias, which becomes the canonical one.
    pub alias_localpart: Option<String>,
    /// The room's name.
    pub name: Option<String>,
    /// The room's topic.
    pub topic: Option<String>,
    /// Who is invited.
    pub invite: Vec<Invitee>,
    /// Are the invitations to a direct chat?
    pub is_direct: bool,
    /// State that goes over the preset's.
    pub initial_state: Vec<InitialState>,
    /// Further fields of the create event.
    pub creation_content: CanonicalJsonObject,
    /// Fields that replace those of the default power levels.
    pub power_level_content_override: CanonicalJsonObject,
    /// The version; the configured default if `None`.
    pub room_version: Option<RoomVersionId>,
    /// What the creator's membership shows.
    pub creator_profile: MemberProfile,
}

/// A room that is about to be made.
pub(crate) struct RoomPlan {
    pub(crate) version: RoomVersionId,
    /// The create event's content, but for the creator and the version.
    pub(crate) create: CanonicalJsonObject,
    /// What the creator's membership shows.
    pub(crate) profile: MemberProfile,
    /// State in the order of its sending: type, state key, content.
    pub(crate) state: Vec<PlannedState>,
    pub(crate) invites: Vec<Invitee>,
    /// Users of other servers, who are invited when the room is there.
    pub(crate) remote_invites: Vec<Invitee>,
    pub(crate) is_direct: bool,
    pub(crate) public: bool,
    pub(crate) alias: Option<OwnedRoomAliasId>,
}

/// Type, state key and content of a state event.
pub(crate) type PlannedState = (String, String, CanonicalJsonObject);

impl Rooms {
    /// Makes a room: its initial state is one commit, so that after a crash the room is there as a
    /// whole or not at all. Of very many invitations the later ones follow in further commits.
    ///
    /// An alias belongs to itself and cannot be part of the room's commit: it is made just before,
    /// and taken back if the room's commit fails. An alias that leads to a room that was never made
    /// counts as free.
    ///
    /// Users of other servers are invited when the room is made; one whose server cannot be reached, or
    /// does not take the invitation, is not invited, and the room is made all the same.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::AliasInUse`]; [`RoomError::InvalidRoomState`]
    /// if the initial state contradicts itself; [`RoomError::InvalidParam`] and
    /// [`RoomError::BadJson`] for contents that cannot stand.
    pub async fn create_room(
        &self,
        creator: &UserId,
        options: CreateRoomOptions,
    ) -> Result<OwnedRoomId, RoomError> {
        let plan = self.plan_room(creator, options)?;
        self.make_room(creator, plan).await
    }

    /// Turns a client's wishes into state events, in the order of the specification.
    fn plan_room(
        &self,
        creator: &UserId,
        options: CreateRoomOptions,
    ) -> Result<RoomPlan, RoomError> {
        let version =
            options.room_version.clone().unwrap_or_else(|| self.config().default_version.clone());
        let rules = supported_rules(&version)?;
        let preset = options.preset.unwrap_or(if options.public {
            Preset::PublicChat
        } else {
            Preset::PrivateChat
        });
        if options.public && !self.config().allow_publishing {
            return Err(RoomError::Forbidden("this server publishes no rooms".to_owned()));
        }
        let alias = options.alias_localpart.as_deref().map(|local| self.own_alias(local));
        let alias = alias.transpose()?;
        let mut invites = options.invite.clone();
        invites.retain(|invitee| invitee.user_id != *creator);
        let elsewhere = |invitee: &Invitee| !self.identity().is_local(&invitee.user_id);
        if self.remote().is_none()
            && let Some(remote) = invites.iter().find(|invitee| elsewhere(invitee))
        {
            return Err(RoomError::RemoteUser(remote.user_id.clone()));
        }
        let trusted: Vec<&UserId> = match preset {
            Preset::TrustedPrivateChat => invites.iter().map(|i| i.user_id.as_ref()).collect(),
            Preset::PrivateChat | Preset::PublicChat => Vec::new(),
        };
        let mut create = options.creation_content.clone();
        if rules.authorization.additional_room_creators {
            add_creators(&mut create, creator, &trusted)?;
        }
        let state = initial_state(creator, &options, preset, &trusted, alias.as_ref(), &rules)?;
        let (remote_invites, invites) = invites.into_iter().partition(elsewhere);
        Ok(RoomPlan {
            version,
            create,
            profile: options.creator_profile,
            state,
            invites,
            remote_invites,
            is_direct: options.is_direct,
            public: options.public,
            alias,
        })
    }

    /// The alias of this server with this local part.
    fn own_alias(&self, localpart: &str) -> Result<OwnedRoomAliasId, RoomError> {
        let alias = format!("#{localpart}:{}", self.identity().server_name());
        let alias = RoomAliasId::parse(alias)
            .map_err(|error| RoomError::InvalidParam(format!("not an alias: {error}")))?;
        self.check_own_alias(&alias)?;
        Ok(alias)
    }

    /// Makes a planned room.
    pub(crate) async fn make_room(
        &self,
        creator: &UserId,
        plan: RoomPlan,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room, batch, later) = self.build_room(creator, &plan)?;
        let room_id = room.id.clone();
        if let Some(alias) = &plan.alias {
            self.claim_alias(alias, &room_id, creator).await?;
        }
        let (mut commit, sealed) = batch.seal(&room);
        commit.require_absent(&schema::ROOMS, &room_id, &());
        if plan.public {
            commit.effect_put(&schema::PUBLIC_ROOMS, &(), &room_id, &());
        }
        match self.store().commit(commit).await {
            Ok(committed) => sealed.publish(&room_id, self.caches(), committed),
            Err(error) => {
                if let Some(alias) = &plan.alias {
                    let row = AliasRow { room_id, creator: creator.to_owned() };
                    self.release_alias(alias, &row).await;
                }
                return Err(error.into());
            }
        }
        for invitee in plan.invites.iter().skip(plan.invites.len() - later) {
            let Invitee { user_id, profile } = invitee;
            self.invite(&room_id, creator, user_id, profile, None, plan.is_direct).await?;
        }
        self.invite_all_elsewhere(&room_id, creator, plan.remote_invites, plan.is_direct).await;
        Ok(room_id)
    }

    /// Invites users of other servers to a new room. An invitation that their server does not take
    /// leaves the room as it is: the creator sees who is invited, and can invite again.
    async fn invite_all_elsewhere(
        &self,
        room_id: &RoomId,
        creator: &UserId,
        invitees: Vec<Invitee>,
        is_direct: bool,
    ) {
        let invitations = invitees.into_iter().map(|invitee| async move {
            let Invitee { user_id, profile } = invitee;
            let invited = self.invite(room_id, creator, &user_id, &profile, None, is_direct).await;
            if let Err(error) = invited {
                tracing::info!(%room_id, %user_id, %error, "not invited to a new room");
            }
        });
        stream::iter(invitations).buffer_unordered(INVITE_CONCURRENCY).collect::<()>().await;
    }

    /// Builds the room in memory; says how many of the last invitations did not fit in.
    fn build_room(
        &self,
        creator: &UserId,
        plan: &RoomPlan,
    ) -> Result<(Room, Batch, usize), RoomError> {
        let view = Context::new(self);
        let rules = supported_rules(&plan.version)?;
        let now = self.creation_time();
        let mut content = plan.create.clone();
        content.insert("room_version".to_owned(), plan.version.as_str().to_owned().into());
        content.remove("creator");
        if !rules.authorization.use_room_create_sender {
            content.insert("creator".to_owned(), creator.as_str().to_owned().into());
        }
        let create = NewEvent::state(creator.to_owned(), "m.room.create", "", content, now);
        let (mut room, mut batch) = Room::create(&view, plan.version.clone(), rules, create)?;
        let mut profile = member_content(Some(&plan.profile), None);
        profile.insert("membership".to_owned(), "join".to_owned().into());
        let creator_key = creator.to_string();
        let join = [("m.room.member".to_owned(), creator_key, profile)];
        for (event_type, state_key, content) in join.into_iter().chain(plan.state.iter().cloned()) {
            let mut event =
                NewEvent::state(creator.to_owned(), event_type, state_key, content, now);
            append(&mut room, &view, &mut batch, &mut event)?;
            if batch.is_full() {
                return Err(RoomError::TooLarge);
            }
        }
        for (done, invitee) in plan.invites.iter().enumerate() {
            if batch.is_full() {
                return Ok((room, batch, plan.invites.len() - done));
            }
            let mut content = member_content(Some(&invitee.profile), None);
            content.insert("membership".to_owned(), "invite".to_owned().into());
            if plan.is_direct {
                content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
            }
            let (sender, target) = (creator.to_owned(), invitee.user_id.as_str());
            let mut event = NewEvent::state(sender, "m.room.member", target, content, now);
            append(&mut room, &view, &mut batch, &mut event)?;
        }
        Ok((room, batch, 0))
    }
}

/// Appends to a room that nobody else knows of yet: what its own state forbids is a contradiction.
fn append(
    room: &mut Room,
    view: &Context<'_>,
    batch: &mut Batch,
    event: &mut NewEvent,
) -> Result<(), RoomError> {
    match room.append(view, batch, event) {
        Ok(_) => Ok(()),
        Err(StepError::Refused(RoomError::Forbidden(reason))) => {
            Err(RoomError::InvalidRoomState(format!("{}: {reason}", event.event_type)))
        }
        Err(StepError::Refused(error)) => Err(error),
        Err(StepError::Settle | StepError::Full | StepError::Long | StepError::Unsigned) => {
            Err(RoomError::internal("a new room waits for itself"))
        }
    }
}

/// The rules of a version that this server makes rooms of.
pub(crate) fn supported_rules(version: &RoomVersionId) -> Result<RoomVersionRules, RoomError> {
    let unsupported = || RoomError::UnsupportedVersion(version.to_string());
    if !SUPPORTED_VERSIONS.contains(version) {
        return Err(unsupported());
    }
    version.rules().ok_or_else(unsupported)
}

/// Puts further creators into a create event's content, beside those that the client named.
pub(crate) fn add_creators(
    create: &mut CanonicalJsonObject,
    creator: &UserId,
    more: &[&UserId],
) -> Result<(), RoomError> {
    let invalid =
        || RoomError::InvalidParam("additional_creators is not a list of users".to_owned());
    let named = match create.remove("additional_creators") {
        None => Vec::new(),
        Some(CanonicalJsonValue::Array(named)) => named,
        Some(_) => return Err(invalid()),
    };
    let mut creators: Vec<OwnedUserId> = Vec::new();
    for user in &named {
        let user = user.as_str().and_then(|user| UserId::parse(user).ok()).ok_or_else(invalid)?;
        creators.push(user);
    }
    creators.extend(more.iter().map(|user| (*user).to_owned()));
    let mut seen = HashSet::from([creator.to_owned()]);
    creators.retain(|user| seen.insert(user.clone()));
    if !creators.is_empty() {
        let creators = creators.iter().map(|user| user.as_str().to_owned().into()).collect();
        create.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(creators));
    }
    Ok(())
}

/// The state of a new room after its create event and its creator's join (CS "Creation").
fn initial_state(
    creator: &UserId,
    options: &CreateRoomOptions,
    preset: Preset,
    trusted: &[&UserId],
    alias: Option<&OwnedRoomAliasId>,
    rules: &RoomVersionRules,
) -> Result<Vec<PlannedState>, RoomError> {
    if options.initial_state.len() > MAX_INITIAL_STATE {
        return Err(RoomError::InvalidParam(format!(
            "more than {MAX_INITIAL_STATE} events in initial_state"
        )));
    }
    let mut given = Vec::with_capacity(options.initial_state.len());
    for event in &options.initial_state {
        check_event_key(&event.event_type, Some(&event.state_key))?;
        if matches!(event.event_type.as_str(), "m.room.create" | "m.room.member") {
            return Err(RoomError::InvalidParam(format!(
                "{} cannot be part of initial_state",
                event.event_type
            )));
        }
        let content = parse_object(&event.content)?;
        given.push((event.event_type.clone(), event.state_key.clone(), content));
    }
    let is_levels = |event: &PlannedState| event.0 == "m.room.power_levels" && event.1.is_empty();
    let mut levels = match given.iter().position(is_levels) {
        Some(index) => given.remove(index).2,
        None => default_power_levels(creator, preset, trusted, rules)?,
    };
    levels.extend(options.power_level_content_override.clone());
    let mut state = vec![("m.room.power_levels".to_owned(), String::new(), levels)];
    if let Some(alias) = alias {
        let content = to_object(json!({ "alias": alias }))?;
        state.push(("m.room.canonical_alias".to_owned(), String::new(), content));
    }
    for event in preset_state(preset)? {
        let is_given = given.iter().any(|given| given.0 == event.0 && given.1 == event.1);
        if !is_given {
            state.push(event);
        }
    }
    state.append(&mut given);
    if let Some(name) = &options.name {
        let content = to_object(json!({ "name": name }))?;
        state.push(("m.room.name".to_owned(), String::new(), content));
    }
    if let Some(topic) = &options.topic {
        let content =
            to_object(json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } }))?;
        state.push(("m.room.topic".to_owned(), String::new(), content));
    }
    Ok(state)
}

/// The events that a preset stands for.
fn preset_state(preset: Preset) -> Result<Vec<PlannedState>, RoomError> {
    let (join_rule, guest_access) = match preset {
        Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", "can_join"),
        Preset::PublicChat => ("public", "forbidden"),
    };
    let event = |event_type: &str, content| {
        to_object(content).map(|content| (event_type.to_owned(), String::new(), content))
    };
    Ok(vec![
        event("m.room.join_rules", json!({ "join_rule": join_rule }))?,
        event("m.room.history_visibility", json!({ "history_visibility": "shared" }))?,
        event("m.room.guest_access", json!({ "guest_access": guest_access }))?,
    ])
}

/// The power levels of a room whose creator does not say otherwise.
fn default_power_levels(
    creator: &UserId,
    preset: Preset,
    trusted: &[&UserId],
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonObject, RoomError> {
    let privileged = rules.authorization.explicitly_privilege_room_creators;
    let mut users = serde_json::Map::new();
    if !privileged {
        for user in trusted.iter().chain([&creator]) {
            users.insert(user.to_string(), json!(100));
        }
    }
    // Creators outrank everybody from room version 12 on: only they end such a room by default.
    let tombstone = if privileged { TOMBSTONE_LEVEL } else { 100 };
    let invite = if preset == Preset::PublicChat { 50 } else { 0 };
    to_object(json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": tombstone,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": invite,
        "historical": 100,
    }))
}

/// Reads the JSON object of a request, such as `creation_content`.
pub fn json_object(json: &RawValue) -> Result<CanonicalJsonObject, RoomError> {
    parse_object(json)
}
