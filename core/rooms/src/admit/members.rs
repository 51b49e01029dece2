//! Rows that follow from who is in a room, worked out from all of its members at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use hearth_storage::{Direction, Snapshot};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, UserId};

use crate::{
    Rooms,
    error::RoomError,
    schema::{self, EventOrdinal, MemberRow, Membership, RoomHead, UserRoomDetails, UserRoomRow},
};

/// A member and their row.
pub(super) type Member = (OwnedUserId, MemberRow);
/// A local member.
pub(super) struct LocalMember {
    pub(super) user_id: OwnedUserId,
    pub(super) row: MemberRow,
    /// Who sent their membership event.
    pub(super) sender: OwnedUserId,
    /// Were they in the room before?
    pub(super) has_joined: bool,
}
/// Who sent the membership events of local users.
pub(super) type Senders = HashMap<EventOrdinal, OwnedUserId>;

/// Is this the ID of a user of this server?
pub(super) fn is_local(rooms: &Rooms, user_id: &str) -> bool {
    UserId::parse(user_id).is_ok_and(|user_id| rooms.identity().is_local(&user_id))
}

/// Users with a row who are no members any more.
pub(super) fn gone(
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
    is_member: impl Fn(&OwnedUserId) -> bool,
) -> Result<Vec<OwnedUserId>, RoomError> {
    let forward = Direction::Forward;
    let all = snapshot.page(&schema::MEMBERS, room_id, .., forward, usize::MAX)?;
    Ok(all.into_iter().map(|(id, _)| id).filter(|id| !is_member(id)).collect())
}

/// How many joined members each other server has; zero for those that had some, if the room is known.
pub(super) fn servers(
    rooms: &Rooms,
    snapshot: &Snapshot,
    is_known: bool,
    room_id: &OwnedRoomId,
    members: &[Member],
) -> Result<BTreeMap<OwnedServerName, u64>, RoomError> {
    let mut servers = BTreeMap::new();
    if is_known {
        let forward = Direction::Forward;
        let page = snapshot.page(&schema::ROOM_SERVERS, room_id, .., forward, usize::MAX)?;
        servers.extend(page.into_iter().map(|(name, _)| (name, 0)));
    }
    for (user_id, row) in members {
        if row.membership == Membership::Join && !rooms.identity().is_local(user_id) {
            *servers.entry(user_id.server_name().to_owned()).or_default() += 1;
        }
    }
    Ok(servers)
}

/// Counts the members.
pub(super) fn count(rooms: &Rooms, head: &mut RoomHead, members: &[Member]) {
    let number = |wanted: &dyn Fn(&OwnedUserId, Membership) -> bool| {
        let found = members.iter().filter(|(id, row)| wanted(id, row.membership));
        found.count() as u64
    };
    head.joined_members = number(&|_, membership| membership == Membership::Join);
    head.invited_members = number(&|_, membership| membership == Membership::Invite);
    head.joined_local_members = number(&|user_id, membership| {
        membership == Membership::Join && rooms.identity().is_local(user_id)
    });
}

/// What changes for local users.
pub(super) struct LocalChanges {
    /// Those whose own rows the members make untrue.
    pub(super) changed: Vec<LocalMember>,
    /// Those whose out-of-band membership is over.
    pub(super) out_of_band: Vec<OwnedUserId>,
}

/// Compares local members, and local users who are none any more, with their own rows.
pub(super) fn local_changes(
    rooms: &Rooms,
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
    members: &[&Member],
    gone: &[OwnedUserId],
    senders: &Senders,
) -> Result<LocalChanges, RoomError> {
    let forward = Direction::Forward;
    let page = snapshot.page(&schema::OUT_OF_BAND, room_id, .., forward, usize::MAX)?;
    let kept: HashSet<OwnedUserId> = page.into_iter().map(|(id, _)| id).collect();
    let mut changes = LocalChanges { changed: Vec::new(), out_of_band: Vec::new() };
    for (user_id, row) in members.iter().copied() {
        let Some(sender) = senders.get(&row.event) else { continue };
        if !rooms.identity().is_local(user_id) {
            continue;
        }
        let own: Option<UserRoomRow> = snapshot.get(&schema::USER_ROOMS, user_id, room_id)?;
        let says_otherwise = match &own {
            Some(own) => own.details.membership != row.membership,
            None => !matches!(row.membership, Membership::Leave | Membership::Ban),
        };
        let own = own.map(|own| own.details);
        let outside = own.as_ref().is_some_and(UserRoomDetails::is_out_of_band);
        // What the user has forgotten stays so until it changes.
        let stays = outside && !says_otherwise && own.as_ref().is_some_and(|own| own.forgotten);
        if kept.contains(user_id) && !stays {
            changes.out_of_band.push(user_id.clone());
        }
        if says_otherwise || (outside && !stays) {
            let has_joined = own.is_some_and(|own| own.has_joined);
            let (user_id, row, sender) = (user_id.clone(), row.clone(), sender.clone());
            changes.changed.push(LocalMember { user_id, row, sender, has_joined });
        }
    }
    for user_id in gone.iter().filter(|user_id| rooms.identity().is_local(user_id)) {
        changes.changed.extend(ended(snapshot, room_id, user_id)?);
    }
    Ok(changes)
}

/// What becomes of the own row of a local user whom the room's state does not mention any more: a leave.
/// `None` where the row says that already, or speaks of an invitation or a knock that the room does not
/// know.
fn ended(
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
    user_id: &OwnedUserId,
) -> Result<Option<LocalMember>, RoomError> {
    let own: Option<UserRoomRow> = snapshot.get(&schema::USER_ROOMS, user_id, room_id)?;
    Ok(own.and_then(|UserRoomRow { details, .. }| {
        let is_over = matches!(details.membership, Membership::Leave | Membership::Ban);
        let row = MemberRow { membership: Membership::Leave, event: details.event };
        let (user_id, has_joined) = (user_id.clone(), details.has_joined);
        (!is_over && !details.is_out_of_band()).then_some(LocalMember {
            user_id,
            row,
            sender: details.sender,
            has_joined,
        })
    }))
}
