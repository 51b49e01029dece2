//! Which rooms a client has in view: the windows of its lists, and its subscriptions.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    ops::Deref,
    sync::Arc,
};

use hearth_rooms::schema::{Membership, UserRoomRow};
use hearth_storage::Topic;
use hearth_types::StreamPosition;
use hearth_users::TaggedRooms;
use ruma::{OwnedRoomId, RoomId};

use super::{
    connection::Stage,
    pass::Look,
    request::{Filter, List, ListSet},
    required::RequiredState,
};
use crate::{SyncError, hub::RoomList};

/// Rooms that are filtered before other tasks get their turn.
const ROOMS_PER_TURN: usize = 64;

/// A room that is told of.
#[derive(Clone)]
pub(crate) struct InView<'a> {
    pub(crate) room_id: &'a RoomId,
    pub(crate) row: &'a UserRoomRow,
    pub(crate) seat: Arc<Seat>,
}

/// Where a room in view stands in the list of the user's rooms, and what is told of it.
pub(crate) struct Seat {
    place: Place,
    pub(crate) topic: Topic,
    pub(crate) stage: Stage,
    /// The lists that have it in their windows.
    pub(crate) lists: ListSet,
    pub(crate) subscribed: bool,
    pub(crate) timeline_limit: u64,
    pub(crate) required: Arc<RequiredState>,
}

/// A place in a [`RoomList`].
#[derive(Clone, Copy)]
enum Place {
    Joined(usize),
    Other(usize),
}

impl<'a> InView<'a> {
    /// The room of this seat, which is one in this list.
    pub(crate) fn of(list: &'a RoomList, seat: &Arc<Seat>) -> Option<Self> {
        let (room_id, row) = match seat.place {
            Place::Joined(place) => {
                list.joined.get(place).map(|room| (&room.room_id, &room.row))?
            }
            Place::Other(place) => list.others.get(place).map(|(room_id, row)| (room_id, row))?,
        };
        Some(Self { room_id, row, seat: Arc::clone(seat) })
    }
}

impl Deref for InView<'_> {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

/// What a client has in view.
pub(crate) struct View<'a> {
    pub(crate) rooms: Vec<InView<'a>>,
    /// How many rooms each list has, windows aside.
    pub(crate) counts: BTreeMap<String, u64>,
}

/// A room that lists can have.
struct Candidate<'a> {
    room_id: &'a RoomId,
    row: &'a UserRoomRow,
    place: Place,
    /// The room's topic, where it is at hand.
    topic: Option<&'a Topic>,
    stage: Stage,
    last: StreamPosition,
}

/// What filters ask beside the rooms themselves.
#[derive(Default)]
struct Sorting {
    /// By list: the children of each of the spaces that its filter names.
    children: Vec<Option<Vec<Children>>>,
    tags: Arc<TaggedRooms>,
}

/// The rooms that a space names.
type Children = Arc<HashSet<OwnedRoomId>>;

/// The configs of rooms by the rules that they match.
type Configs = HashMap<(ListSet, Option<OwnedRoomId>), (u64, Arc<RequiredState>)>;

impl<'a> Look<'a> {
    /// The rooms in view, most recently active first, and those subscribed to.
    pub(crate) async fn view(&self, list: &'a RoomList) -> Result<View<'a>, SyncError> {
        let candidates = self.candidates(list).await?;
        let sorting = self.sorting(list).await?;
        let mut shown_by = vec![ListSet::default(); candidates.len()];
        let mut counts = BTreeMap::new();
        for (place, rule) in self.rules.lists.iter().enumerate() {
            let children = sorting.children.get(place).and_then(Option::as_deref);
            let mut count: u64 = 0;
            for (turn, (candidate, lists)) in candidates.iter().zip(&mut shown_by).enumerate() {
                if turn % ROOMS_PER_TURN == ROOMS_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
                if self.passes(&rule.filter, candidate, children, &sorting.tags).await? {
                    if in_window(rule, count) {
                        lists.insert(place);
                    }
                    count += 1;
                }
            }
            counts.insert(rule.name.clone(), count);
        }
        let mut configs = Configs::new();
        let mut rooms = Vec::new();
        for (candidate, lists) in candidates.into_iter().zip(shown_by) {
            let subscribed = self.rules.subscriptions.contains_key(candidate.room_id);
            if !lists.is_empty() || subscribed {
                rooms.push(self.in_view(&candidate, lists, subscribed, &mut configs)?);
            }
        }
        self.add_subscribed(list, &mut rooms, &mut configs)?;
        Ok(View { rooms, counts })
    }

    /// The rooms that lists choose from, in their order.
    async fn candidates(&self, rooms: &'a RoomList) -> Result<Vec<Candidate<'a>>, SyncError> {
        let mut candidates = Vec::with_capacity(rooms.joined.len());
        if self.rules.lists.is_empty() {
            return Ok(candidates);
        }
        for (turn, (room, topic)) in rooms.joined.iter().zip(&rooms.topics).enumerate() {
            if turn % ROOMS_PER_TURN == ROOMS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let last = self.inner.last_event(&room.room_id, topic).await?;
            let (room_id, row) = (&*room.room_id, &room.row);
            let (place, topic, stage) = (Place::Joined(turn), Some(topic), Stage::Joined);
            candidates.push(Candidate { room_id, row, place, topic, stage, last });
        }
        for (place, (room_id, row)) in rooms.others.iter().enumerate() {
            if let Some(stage) = self.stage_in_lists(room_id, row) {
                let (place, topic, last) = (Place::Other(place), None, row.position);
                candidates.push(Candidate { room_id, row, place, topic, stage, last });
            }
        }
        candidates.sort_by_key(|candidate| (Reverse(candidate.last), candidate.room_id));
        Ok(candidates)
    }

    /// How lists show a room that the user is not in; `None`: they do not. A room that the user left by
    /// themselves is shown to connections that were sent it; one that they were put out of always, however
    /// often their membership has changed since (MSC4186, "Lists").
    fn stage_in_lists(&self, room_id: &RoomId, row: &UserRoomRow) -> Option<Stage> {
        let details = &row.details;
        match details.membership {
            Membership::Join => None,
            Membership::Invite | Membership::Knock => self.is_asked(row).then_some(Stage::Asked),
            Membership::Leave | Membership::Ban => {
                let sent = self.base.rooms.get(room_id.as_str());
                let news = sent.is_some_and(|sent| {
                    sent.stage != Stage::Gone || sent.until < row.position || !details.forgotten
                });
                let put_out = details.has_joined && details.sender != *self.user_id;
                (news || (put_out && !details.forgotten)).then_some(Stage::Gone)
            }
        }
    }

    /// Is this an invitation that the user wants to see, or a knock?
    fn is_asked(&self, row: &UserRoomRow) -> bool {
        match row.details.membership {
            Membership::Invite => {
                !self.blocks_invites && !self.ignored.contains(&row.details.sender)
            }
            Membership::Knock => true,
            _ => false,
        }
    }

    /// Adds rooms that are subscribed to and in no list's reach.
    fn add_subscribed(
        &self,
        list: &'a RoomList,
        rooms: &mut Vec<InView<'a>>,
        configs: &mut Configs,
    ) -> Result<(), SyncError> {
        let known: HashSet<&RoomId> =
            rooms.iter().filter(|room| room.subscribed).map(|room| room.room_id).collect();
        for room_id in self.rules.subscriptions.keys() {
            if known.contains(&**room_id) {
                continue;
            }
            let found = match list.place_of(room_id) {
                Some(place) => list.joined.get(place).map(|room| Candidate {
                    room_id: &room.room_id,
                    row: &room.row,
                    place: Place::Joined(place),
                    topic: list.topics.get(place),
                    stage: Stage::Joined,
                    last: StreamPosition::ZERO,
                }),
                None => self.subscribed_outside(list, room_id),
            };
            if let Some(candidate) = found {
                rooms.push(self.in_view(&candidate, ListSet::default(), true, configs)?);
            }
        }
        Ok(())
    }

    /// A room that is subscribed to and that the user is not in (any more).
    fn subscribed_outside(&self, list: &'a RoomList, room_id: &RoomId) -> Option<Candidate<'a>> {
        let place = list.others.iter().position(|(id, _)| id == room_id)?;
        let (room_id, row) = list.others.get(place)?;
        let stage = match row.details.membership {
            Membership::Join => return None,
            Membership::Invite | Membership::Knock => self.is_asked(row).then_some(Stage::Asked)?,
            Membership::Leave | Membership::Ban => {
                let told = self.base.rooms.contains_key(room_id.as_str());
                (told || (row.details.has_joined && !row.details.forgotten))
                    .then_some(Stage::Gone)?
            }
        };
        let place = Place::Other(place);
        Some(Candidate { room_id, row, place, topic: None, stage, last: row.position })
    }

    fn in_view(
        &self,
        candidate: &Candidate<'a>,
        lists: ListSet,
        subscribed: bool,
        configs: &mut Configs,
    ) -> Result<InView<'a>, SyncError> {
        let (timeline_limit, required) =
            self.config(candidate.room_id, lists, subscribed, configs)?;
        let topic = candidate.topic.cloned();
        let seat = Arc::new(Seat {
            place: candidate.place,
            topic: topic.unwrap_or_else(|| Topic::new(candidate.room_id.as_str())),
            stage: candidate.stage,
            lists,
            subscribed,
            timeline_limit,
            required,
        });
        Ok(InView { room_id: candidate.room_id, row: candidate.row, seat })
    }

    /// What is to be told of a room that these rules match (MSC4186, "Combining room configs").
    fn config(
        &self,
        room_id: &RoomId,
        lists: ListSet,
        subscribed: bool,
        configs: &mut Configs,
    ) -> Result<(u64, Arc<RequiredState>), SyncError> {
        let key = (lists, subscribed.then(|| room_id.to_owned()));
        if let Some((limit, required)) = configs.get(&key) {
            return Ok((*limit, Arc::clone(required)));
        }
        let of_lists = lists.of(&self.rules.lists).map(|list| &list.config);
        let own = self.rules.subscriptions.get(room_id).filter(|_| subscribed);
        let (mut limit, mut required) = (0, RequiredState::default());
        for config in of_lists.chain(own) {
            limit = limit.max(config.timeline_limit);
            required = required.union(&config.required);
        }
        let max = u64::try_from(self.inner.config.max_timeline_limit).unwrap_or(u64::MAX);
        let config = (limit.min(max), self.base.intern(required)?);
        configs.insert(key, config.clone());
        Ok(config)
    }

    /// Reads what the lists' filters ask beside the rooms.
    async fn sorting(&self, list: &RoomList) -> Result<Sorting, SyncError> {
        let mut sorting = Sorting::default();
        let mut known: HashMap<&RoomId, Children> = HashMap::new();
        for rule in &self.rules.lists {
            for space_id in rule.filter.spaces.iter().flatten() {
                if list.place_of(space_id).is_some() && !known.contains_key(&**space_id) {
                    known.insert(space_id, Arc::new(self.inner.children_of(space_id).await?));
                }
            }
        }
        for rule in &self.rules.lists {
            let of_each = |spaces: &Vec<OwnedRoomId>| {
                spaces.iter().filter_map(|space_id| known.get(&**space_id).cloned()).collect()
            };
            sorting.children.push(rule.filter.spaces.as_ref().map(of_each));
        }
        if self.rules.lists.iter().any(|rule| rule.filter.asks_tags()) {
            sorting.tags = self.tagged_rooms().await?;
        }
        Ok(sorting)
    }

    /// The user's tags, read again when anything of the user's has changed.
    async fn tagged_rooms(&self) -> Result<Arc<TaggedRooms>, SyncError> {
        let cache = &self.inner.sliding.tags;
        if let Some((as_of, known)) = cache.get(self.user_id)
            && !self.inner.notifier().changed_since(self.session.topic(), as_of)
        {
            return Ok(known);
        }
        let as_of = self.inner.notifier().published();
        let tags = Arc::new(self.inner.users.tagged_rooms(self.user_id).await?);
        cache.insert(self.user_id.to_owned(), (as_of, Arc::clone(&tags)));
        Ok(tags)
    }

    /// Does the filter let the room pass? What costs nothing is asked first.
    async fn passes(
        &self,
        filter: &Filter,
        candidate: &Candidate<'_>,
        children: Option<&[Children]>,
        tags: &TaggedRooms,
    ) -> Result<bool, SyncError> {
        let Candidate { room_id, row, .. } = *candidate;
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let invited = row.details.membership == Membership::Invite;
        if !is(filter.is_invite, invited)
            || !is(filter.is_dm, self.dms.contains(room_id))
            || children.is_some_and(|all| !all.iter().any(|children| children.contains(room_id)))
        {
            return Ok(false);
        }
        if filter.asks_tags() {
            let own = tags.get(room_id).map(Vec::as_slice).unwrap_or_default();
            let any = |wanted: &[String]| own.iter().any(|tag| wanted.contains(tag));
            if any(&filter.not_tags) || filter.tags.as_ref().is_some_and(|tags| !any(tags)) {
                return Ok(false);
            }
        }
        if filter.room_types.is_some() || !filter.not_room_types.is_empty() {
            let kind = self.inner.room_type(self.user_id, room_id, row).await?;
            let among =
                |types: &[Option<String>]| types.iter().any(|t| t.as_deref() == kind.as_deref());
            if among(&filter.not_room_types)
                || filter.room_types.as_ref().is_some_and(|t| !among(t))
            {
                return Ok(false);
            }
        }
        if filter.is_encrypted.is_none() && filter.name_like.is_none() {
            return Ok(true);
        }
        let facets = self.inner.state_facets(self.user_id, room_id, row).await?;
        let like = |part: &String| facets.name.as_ref().is_some_and(|name| name.contains(&**part));
        Ok(is(filter.is_encrypted, facets.encrypted) && filter.name_like.as_ref().is_none_or(like))
    }
}

/// Has the list this index in its window?
fn in_window(list: &List, index: u64) -> bool {
    let inside = |(first, last): &(u64, u64)| (*first..=*last).contains(&index);
    list.ranges.as_ref().is_none_or(|ranges| ranges.iter().any(inside))
}
