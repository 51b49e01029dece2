//! Memberships: joining, inviting, leaving, kicking, banning, knocking, forgetting, and the profile
//! that a user shows in their rooms.

use futures_util::{StreamExt, stream};
use hearth_storage::{Direction, Topic};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, UserId, state_res::events::RoomPowerLevelsIntField,
};
use serde::{Deserialize, Serialize};

use crate::{
    CheckedPdu, Rooms,
    error::RoomError,
    schema::{self, Membership, TransactionKey, UserRoomRow},
    writer::{Action, Batch, Context, NewEvent, Outcome, Room, StepError, parse_object},
};

/// Rooms of one user that a change of their profile goes to at a time.
const PROFILE_CONCURRENCY: usize = 8;
/// Conditions of a restricted room that are looked at.
const MAX_ALLOW_RULES: usize = 100;
/// Members of a restricted room that are looked at to find one who may vouch for a joiner.
const MAX_VOUCHERS: usize = 10_000;
/// Members read at a time while looking for one.
const VOUCHER_PAGE: usize = 100;
/// The field of a restricted join that names who vouches for it.
pub(crate) const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// What a membership event shows of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberProfile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar's `mxc://` URI.
    pub avatar_url: Option<String>,
}

/// What is wanted of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberAction {
    Join,
    Invite,
    Leave,
    Kick,
    Ban,
    Unban,
    Knock,
    /// A leave by somebody else, as state events put it: a kick or an unban.
    Remove,
    /// A joined user's new profile.
    Profile,
}

impl MemberAction {
    fn membership(self) -> &'static str {
        match self {
            Self::Join | Self::Profile => "join",
            Self::Invite => "invite",
            Self::Leave | Self::Kick | Self::Unban | Self::Remove => "leave",
            Self::Ban => "ban",
            Self::Knock => "knock",
        }
    }
}

/// A change of one user's membership, as its writer gets it.
pub(crate) struct MemberRequest {
    pub(crate) sender: OwnedUserId,
    pub(crate) target: OwnedUserId,
    pub(crate) action: MemberAction,
    /// The content, but for the membership.
    pub(crate) content: CanonicalJsonObject,
    pub(crate) origin_server_ts: MilliSecondsSinceUnixEpoch,
    pub(crate) transaction: Option<TransactionKey>,
}

impl Rooms {
    /// Joins a local user to a room. Does nothing if they are joined with this profile already.
    ///
    /// # Errors
    ///
    /// [`RoomError::Forbidden`] if the room's rules keep the user out;
    /// [`RoomError::UnableToGrantJoin`] if a restricted room would let them in, but no local member
    /// can vouch for them (CS "Joining rooms").
    pub async fn join(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let content = member_content(Some(profile), reason);
        self.change_member(room_id, user_id, user_id, MemberAction::Join, content).await
    }

    /// Asks to be let in (CS "Knocking on rooms").
    pub async fn knock(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let content = member_content(Some(profile), reason);
        self.change_member(room_id, user_id, user_id, MemberAction::Knock, content).await
    }

    /// Invites a user, whose profile the caller supplies. One of another server is only invited if that
    /// server takes the invitation.
    ///
    /// # Errors
    ///
    /// [`RoomError::RemoteUser`] for other servers' users where there is no federation; what their server
    /// says against the invitation.
    pub async fn invite(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        profile: &MemberProfile,
        reason: Option<&str>,
        is_direct: bool,
    ) -> Result<OwnedEventId, RoomError> {
        let mut content = member_content(Some(profile), reason);
        if is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        self.change_member(room_id, sender, target, MemberAction::Invite, content).await
    }

    /// Leaves a room, rejects an invitation or takes back a knock. Does nothing if the user has left.
    pub async fn leave(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        if let Some(event_id) = self.leave_out_of_band(room_id, user_id, reason).await? {
            return Ok(event_id);
        }
        let content = member_content(None, reason);
        self.change_member(room_id, user_id, user_id, MemberAction::Leave, content).await
    }

    /// Removes a user who is joined or invited, or who knocked.
    pub async fn kick(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let content = member_content(None, reason);
        self.change_member(room_id, sender, target, MemberAction::Kick, content).await
    }

    /// Keeps a user out.
    pub async fn ban(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let content = member_content(None, reason);
        self.change_member(room_id, sender, target, MemberAction::Ban, content).await
    }

    /// Lifts a ban.
    ///
    /// # Errors
    ///
    /// [`RoomError::BadState`] if the user is not banned.
    pub async fn unban(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let content = member_content(None, reason);
        self.change_member(room_id, sender, target, MemberAction::Unban, content).await
    }

    /// Takes a room that the user has left out of their history, until they join again.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] if the user has not left.
    pub async fn forget(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), RoomError> {
        let own = self.user_room(user_id, room_id).await?;
        if own.is_some_and(|own| own.details.is_out_of_band()) {
            return self.forget_out_of_band(room_id, user_id).await;
        }
        self.act(room_id, Action::Forget(user_id.to_owned())).await.map(drop)
    }

    /// Shows a user's new profile in every room that they are joined to. Rooms that refuse or are
    /// busy are left out; the answer says in how many it is shown.
    pub async fn update_member_profile(
        &self,
        user_id: &UserId,
        profile: &MemberProfile,
    ) -> Result<usize, RoomError> {
        let rooms = self.user_rooms(user_id).await?.into_iter();
        let joined = rooms.filter(|(_, row)| row.details.membership == Membership::Join);
        let updates = joined.map(|(room_id, _)| async move {
            let content = member_content(Some(profile), None);
            self.change_member(&room_id, user_id, user_id, MemberAction::Profile, content)
                .await
                .inspect_err(|error| tracing::debug!(%room_id, %error, "profile not shown"))
                .is_ok()
        });
        let shown = stream::iter(updates).buffer_unordered(PROFILE_CONCURRENCY);
        Ok(shown.filter(|shown| std::future::ready(*shown)).count().await)
    }

    async fn change_member(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        action: MemberAction,
        content: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        let request = MemberRequest {
            sender: sender.to_owned(),
            target: target.to_owned(),
            action,
            content,
            origin_server_ts: self.clock().now(),
            transaction: None,
        };
        self.request_member(room_id, request).await
    }

    /// Hands a change of a membership to the room's writer.
    pub(crate) async fn request_member(
        &self,
        room_id: &RoomId,
        request: MemberRequest,
    ) -> Result<OwnedEventId, RoomError> {
        if request.action == MemberAction::Invite && !self.identity().is_local(&request.target) {
            return self.invite_elsewhere(room_id, request).await;
        }
        self.act_event(room_id, Action::Member(request)).await
    }
}

/// A membership event's content without the membership.
pub(crate) fn member_content(
    profile: Option<&MemberProfile>,
    reason: Option<&str>,
) -> CanonicalJsonObject {
    let displayname = profile.and_then(|profile| profile.displayname.as_deref());
    let avatar_url = profile.and_then(|profile| profile.avatar_url.as_deref());
    let fields = [("displayname", displayname), ("avatar_url", avatar_url), ("reason", reason)];
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned().into())))
        .collect()
}

/// Reads a membership event that a client sends as state: which change it asks for.
pub(crate) fn action_of_state(
    sender: &UserId,
    target: &UserId,
    content: &mut CanonicalJsonObject,
) -> Result<MemberAction, RoomError> {
    for field in ["displayname", "avatar_url", "reason"] {
        match content.get(field) {
            None | Some(CanonicalJsonValue::Null | CanonicalJsonValue::String(_)) => {}
            Some(_) => return Err(RoomError::BadJson(format!("{field} is not a string"))),
        }
    }
    let membership = content.remove("membership");
    let own = sender == target;
    match membership.as_ref().and_then(CanonicalJsonValue::as_str) {
        Some("join") if own => Ok(MemberAction::Join),
        Some("knock") if own => Ok(MemberAction::Knock),
        Some("join" | "knock") => {
            Err(RoomError::Forbidden("nobody can do that for somebody else".to_owned()))
        }
        Some("invite") => Ok(MemberAction::Invite),
        Some("leave") if own => Ok(MemberAction::Leave),
        Some("leave") => Ok(MemberAction::Remove),
        Some("ban") => Ok(MemberAction::Ban),
        _ => Err(RoomError::BadJson("the membership is missing or unknown".to_owned())),
    }
}

/// The part of `m.room.join_rules` that restricted joins need.
#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: Vec<AllowRule>,
}

#[derive(Deserialize)]
struct AllowRule {
    #[serde(rename = "type")]
    kind: Option<String>,
    room_id: Option<OwnedRoomId>,
}

impl Room {
    /// Changes a membership; returns the event that says so, new or old, or the one that the room's
    /// policy server is to be asked about.
    pub(crate) fn change_member(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        request: &mut MemberRequest,
    ) -> Result<Outcome, StepError> {
        if let Some(existing) = self.already_so(view, request)? {
            return Ok(Outcome::Event(existing));
        }
        let mut event = self.member_event_for(view, request)?;
        let appended = self.append_or_prepare(view, batch, &mut event);
        if matches!(appended, Err(StepError::Settle)) {
            request.content = event.content;
        }
        appended
    }

    /// Makes the event of a change of membership, without making it part of the room; or finds that the
    /// membership is as wanted already.
    pub(crate) fn prepare_member(
        &mut self,
        view: &Context<'_>,
        request: &mut MemberRequest,
    ) -> Result<Outcome, StepError> {
        if let Some(existing) = self.already_so(view, request)? {
            return Ok(Outcome::Event(existing));
        }
        let mut event = self.member_event_for(view, request)?;
        let prepared = self.prepare(view, &mut event);
        if matches!(prepared, Err(StepError::Settle)) {
            request.content = event.content;
        }
        Ok(Outcome::Prepared(Box::new(CheckedPdu::new(prepared?))))
    }

    /// The event of a change of membership. Takes the request's content, unless it fails.
    fn member_event_for(
        &mut self,
        view: &Context<'_>,
        request: &mut MemberRequest,
    ) -> Result<NewEvent, StepError> {
        let voucher = match request.action {
            MemberAction::Join => self.voucher(view, &request.target)?,
            _ => None,
        };
        let mut content = std::mem::take(&mut request.content);
        content.insert("membership".to_owned(), request.action.membership().to_owned().into());
        // Only this server says who vouches for a join.
        content.remove(AUTHORISED_VIA);
        if let Some(voucher) = voucher {
            content.insert(AUTHORISED_VIA.to_owned(), voucher.as_str().to_owned().into());
        }
        Ok(NewEvent {
            transaction: request.transaction.clone(),
            ..NewEvent::state(
                request.sender.clone(),
                "m.room.member",
                request.target.as_str(),
                content,
                request.origin_server_ts,
            )
        })
    }

    /// Checks what the authorization rules leave open, and finds the event of a membership that is
    /// as wanted already.
    fn already_so(
        &mut self,
        view: &Context<'_>,
        request: &MemberRequest,
    ) -> Result<Option<OwnedEventId>, StepError> {
        let current = self.member_event(view, &request.target)?;
        let membership = self.membership(view, &request.target)?;
        let refuse = |error: RoomError| Err(StepError::Refused(error));
        match (request.action, membership) {
            (MemberAction::Join, Some(Membership::Join)) => {}
            (MemberAction::Leave, Some(Membership::Leave)) => {
                return Ok(current.map(|event| event.header.event_id.clone()));
            }
            (MemberAction::Kick, None | Some(Membership::Leave | Membership::Ban))
            | (MemberAction::Remove, None | Some(Membership::Leave)) => {
                return refuse(RoomError::Forbidden("the user is not in the room".to_owned()));
            }
            (
                MemberAction::Unban,
                None
                | Some(Membership::Join | Membership::Invite | Membership::Knock | Membership::Leave),
            ) => {
                return refuse(RoomError::BadState("the user is not banned".to_owned()));
            }
            (MemberAction::Leave, None)
            | (
                MemberAction::Profile,
                None
                | Some(Membership::Invite | Membership::Knock | Membership::Leave | Membership::Ban),
            ) => {
                return refuse(RoomError::NotJoined);
            }
            _ => return Ok(None),
        }
        // A repeated join: the same unless it says something new.
        let Some(current) = current else {
            return Ok(None);
        };
        let mut content = parse_object(current.pdu.content())?;
        content.retain(|field, _| {
            field != "membership"
                && field != AUTHORISED_VIA
                && (field != "reason" || request.content.contains_key("reason"))
        });
        Ok((content == request.content).then(|| current.header.event_id.clone()))
    }

    /// Who vouches for somebody who joins a restricted room without an invitation (CS "Restricted
    /// rooms"): `None` where nobody has to.
    pub(crate) fn voucher(
        &mut self,
        view: &Context<'_>,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>, StepError> {
        let membership = self.membership(view, user_id)?;
        if matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Ban)) {
            return Ok(None);
        }
        let Some(event) = self.state_event(view, "m.room.join_rules", "")? else {
            return Ok(None);
        };
        let Ok(join_rules) = event.pdu.content_as::<JoinRules>() else {
            return Ok(None);
        };
        let rules = &self.rules.authorization;
        let restricted = match join_rules.join_rule.as_str() {
            "restricted" => rules.restricted_join_rule,
            "knock_restricted" => rules.knock_restricted_join_rule,
            _ => false,
        };
        if !restricted {
            return Ok(None);
        }
        check_conditions(view, &join_rules.allow, user_id)?;
        let voucher = self.find_voucher(view)?.ok_or_else(|| {
            let text = "no member of this server may let you in";
            RoomError::UnableToGrantJoin(text.to_owned())
        })?;
        Ok(Some(voucher))
    }

    /// A joined local user with the power to invite: one who is named in the power levels, else the
    /// first member.
    fn find_voucher(&mut self, view: &Context<'_>) -> Result<Option<OwnedUserId>, RoomError> {
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the method alone is not general enough over its lifetime"
        )]
        let mut candidates = self.with_power(view, |power| power.named_users())?;
        let mut looked_at = 0;
        loop {
            for user_id in &candidates {
                if self.may_vouch(view, user_id)? {
                    return Ok(Some(user_id.clone()));
                }
            }
            if looked_at >= MAX_VOUCHERS || (looked_at > 0 && candidates.len() < VOUCHER_PAGE) {
                return Ok(None);
            }
            let after = candidates.last().cloned().filter(|_| looked_at > 0);
            let range = (
                after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
                std::ops::Bound::Unbounded,
            );
            let page = view.snapshot.page(
                &schema::MEMBERS,
                &self.id,
                range,
                Direction::Forward,
                VOUCHER_PAGE,
            )?;
            candidates = page.into_iter().map(|(user_id, _)| user_id).collect();
            looked_at += VOUCHER_PAGE;
        }
    }

    fn may_vouch(&mut self, view: &Context<'_>, user_id: &UserId) -> Result<bool, RoomError> {
        if !view.rooms.identity().is_local(user_id) || !self.is_joined(view, user_id)? {
            return Ok(false);
        }
        self.with_power(view, |power| power.can(user_id, RoomPowerLevelsIntField::Invite))
    }

    /// Marks a room that a user has left as forgotten.
    pub(crate) fn forget(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        user_id: &OwnedUserId,
    ) -> Result<(), StepError> {
        let Some((written, row)) = self.user_room(view, user_id)? else {
            return Err(RoomError::UnknownRoom.into());
        };
        if !matches!(row.details.membership, Membership::Leave | Membership::Ban) {
            return Err(RoomError::InvalidParam("you have not left this room".to_owned()).into());
        }
        let row = UserRoomRow {
            position: self.real_position(batch.number, (written, row.position))?,
            joined_at: self.real_position(batch.number, (written, row.joined_at))?,
            details: schema::UserRoomDetails { forgotten: true, ..row.details },
        };
        batch.commit.effect_put(&schema::USER_ROOMS, user_id, &self.id, &row);
        // Whoever holds the user's list of rooms must read it again.
        batch.commit.touch(Topic::new(user_id.as_str()));
        self.local.user_rooms.insert(user_id.clone(), (batch.number, row));
        Ok(())
    }
}

/// Is the user joined to one of the rooms that a restricted room names? [`RoomError::Forbidden`] if not,
/// [`RoomError::UnableToAuthoriseJoin`] if this server is not in all of them, or does not know all of their
/// members yet, and so cannot tell. A local user is in no room that this server is not in.
fn check_conditions(
    view: &Context<'_>,
    allow: &[AllowRule],
    user_id: &UserId,
) -> Result<(), RoomError> {
    let is_local = view.rooms.identity().is_local(user_id);
    let user_id = user_id.to_owned();
    let mut unknown = false;
    for rule in allow.iter().take(MAX_ALLOW_RULES) {
        let (Some("m.room_membership"), Some(room_id)) = (rule.kind.as_deref(), &rule.room_id)
        else {
            continue;
        };
        let head = view.snapshot.get(&schema::ROOMS, room_id, &())?;
        if head.is_none_or(|head| head.joined_local_members == 0) {
            unknown = true;
            continue;
        }
        let row = view.snapshot.get(&schema::MEMBERS, room_id, &user_id)?;
        if row.is_some_and(|row| row.membership == Membership::Join) {
            return Ok(());
        }
        unknown |= view.snapshot.get(&schema::PARTIAL, room_id, &())?.is_some();
    }
    if unknown && !is_local {
        let text = "this server cannot tell whether you meet a condition for joining this room";
        return Err(RoomError::UnableToAuthoriseJoin(text.to_owned()));
    }
    let text = "you meet none of the conditions for joining this room";
    Err(RoomError::Forbidden(text.to_owned()))
}
