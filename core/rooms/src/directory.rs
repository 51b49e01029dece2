//! The public room directory (CS "Published room directory").

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use bytes::Bytes;
use hearth_storage::{Commit, Direction, Snapshot, Topic};
use hearth_types::StreamPosition;
use parking_lot::Mutex;
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, RoomId, UserId, events::TimelineEventType, room::RoomSummary,
};
use serde::Serialize;

use crate::{Rooms, error::RoomError, schema};

/// Rooms that the directory looks at; further ones are published in vain.
const MAX_PUBLISHED: usize = 10_000;
/// Rooms on a page at most.
const MAX_PAGE: usize = 500;
/// Rooms on a page whose size the client leaves open.
const DEFAULT_PAGE: usize = 100;

/// What the directory remembers: entries, each as of a position, so that a listing looks only at
/// rooms that have changed.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: Mutex<HashMap<OwnedRoomId, (StreamPosition, Arc<PublicRoom>)>>,
}

/// A room as the directory shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its canonical alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// The `mxc://` URI of its avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// Its joined members.
    #[serde(rename = "num_joined_members")]
    pub joined_members: u64,
    /// Its join rule, as the specification names it.
    pub join_rule: String,
    /// Its type, such as `m.space`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// May everybody read it?
    pub world_readable: bool,
    /// May guests join it?
    pub guest_can_join: bool,
}

/// Which rooms of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// A text that the name, topic or canonical alias must contain; letter case does not matter.
    pub search_term: Option<String>,
    /// Types that are wanted, `None` among them standing for rooms without one. Empty: all.
    pub room_types: Vec<Option<String>>,
    /// How many rooms at most; the server's own bound if `None`.
    pub limit: Option<usize>,
    /// A token of an earlier page.
    pub since: Option<String>,
}

/// A page of the directory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DirectoryPage {
    /// The rooms, those with the most members first.
    #[serde(rename = "chunk")]
    pub rooms: Vec<PublicRoom>,
    /// The token of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// The token of the page before, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms there are on all pages.
    #[serde(rename = "total_room_count_estimate")]
    pub total_estimate: u64,
}

impl DirectoryPage {
    /// The page as clients and other servers are answered alike (CS, SS "Published room directory").
    ///
    /// # Errors
    ///
    /// [`RoomError::Internal`] if the page cannot be serialized, which does not happen.
    pub fn to_json(&self) -> Result<Bytes, RoomError> {
        let json = serde_json::to_vec(self);
        json.map(Bytes::from).map_err(|error| RoomError::internal(error.to_string()))
    }
}

/// The place of a room in the directory's order: most members first, then by ID.
type Place = (Reverse<u64>, OwnedRoomId);

impl PublicRoom {
    fn place(&self) -> Place {
        (Reverse(self.joined_members), self.room_id.clone())
    }

    fn matches(&self, query: &DirectoryQuery, term: Option<&str>) -> bool {
        let wanted = &query.room_types;
        if !wanted.is_empty() && !wanted.contains(&self.room_type) {
            return false;
        }
        let Some(term) = term else {
            return true;
        };
        let alias = self.canonical_alias.as_ref().map(|alias| alias.as_str());
        [self.name.as_deref(), self.topic.as_deref(), alias]
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(term))
    }
}

impl Rooms {
    /// Is a room published in the directory?
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let row = self.store().get(&schema::PUBLIC_ROOMS, &(), &room_id.to_owned()).await?;
        Ok(row.is_some())
    }

    /// Publishes a room, or takes it off the directory: for joined users with the power to send
    /// `m.room.canonical_alias`.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`]; [`RoomError::Forbidden`] without the power, or if the
    /// configuration does not allow users to publish.
    pub async fn set_published(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        published: bool,
    ) -> Result<(), RoomError> {
        if self.head(room_id).await?.is_none() {
            return Err(RoomError::UnknownRoom);
        }
        let event_type = TimelineEventType::RoomCanonicalAlias;
        if !self.may_send_state(room_id, user_id, &event_type).await? {
            let text = "you do not have enough power to publish this room";
            return Err(RoomError::Forbidden(text.to_owned()));
        }
        if published && !self.config().allow_publishing {
            return Err(RoomError::Forbidden("this server publishes no rooms".to_owned()));
        }
        let room_id = room_id.to_owned();
        let mut commit = Commit::new(&());
        if published {
            commit.put(&schema::PUBLIC_ROOMS, &(), &room_id, &());
        } else {
            commit.delete(&schema::PUBLIC_ROOMS, &(), &room_id);
        }
        self.store().commit(commit).await?;
        Ok(())
    }

    /// Lists and searches the directory, at most 10,000 rooms of it.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] for a token that is none.
    pub async fn public_rooms(&self, query: &DirectoryQuery) -> Result<DirectoryPage, RoomError> {
        let from = query.since.as_deref().map(parse_token).transpose()?;
        let term = query.search_term.as_ref().map(|term| term.to_lowercase());
        let mut rooms = self.published().await?;
        rooms.retain(|room| room.matches(query, term.as_deref()));
        rooms.sort_by_cached_key(|room| room.place());
        let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
        let total_estimate = rooms.len() as u64;
        // A page is named by the place that it starts or ends at, so that rooms which come, go or
        // grow meanwhile do not shift it.
        let (start, end) = match &from {
            None => (0, limit),
            Some((Step::After, place)) => {
                let start = rooms.partition_point(|room| room.place() <= *place);
                (start, start.saturating_add(limit))
            }
            Some((Step::Before, place)) => {
                let end = rooms.partition_point(|room| room.place() < *place);
                (end.saturating_sub(limit), end)
            }
        };
        let end = end.min(rooms.len());
        let page: Vec<PublicRoom> =
            rooms.get(start..end).unwrap_or_default().iter().map(|room| (**room).clone()).collect();
        let next = page.last().filter(|_| end < rooms.len());
        let prev = page.first().filter(|_| start > 0);
        Ok(DirectoryPage {
            next_batch: next.map(|room| token(Step::After, room)),
            prev_batch: prev.map(|room| token(Step::Before, room)),
            rooms: page,
            total_estimate,
        })
    }

    /// All published rooms, in no order; only those that changed are read anew.
    async fn published(&self) -> Result<Vec<Arc<PublicRoom>>, RoomError> {
        let list = |snapshot: &Snapshot| {
            snapshot.page(&schema::PUBLIC_ROOMS, &(), .., Direction::Forward, MAX_PUBLISHED)
        };
        let published = self.store().bulk(list).await?;
        let notifier = self.store().notifier();
        let known = {
            let mut entries = self.directory_cache().entries.lock();
            std::mem::take(&mut *entries)
        };
        let mut fresh = HashMap::with_capacity(published.len());
        for (room_id, ()) in published {
            let entry = known.get(&room_id).filter(|(as_of, _)| {
                !notifier.changed_since(&Topic::new(room_id.as_str()), *as_of)
            });
            if let Some(entry) = entry {
                fresh.insert(room_id, entry.clone());
                continue;
            }
            let as_of = notifier.published();
            if let Some(room) = self.public_room(&room_id).await? {
                fresh.insert(room_id, (as_of, Arc::new(room)));
            }
        }
        let rooms = fresh.values().map(|(_, room)| Arc::clone(room)).collect();
        *self.directory_cache().entries.lock() = fresh;
        Ok(rooms)
    }

    /// One room as the directory shows it, published or not; `None` if it does not exist.
    pub async fn public_room(&self, room_id: &RoomId) -> Result<Option<PublicRoom>, RoomError> {
        Ok(self.room_summary(room_id).await?.map(PublicRoom::from))
    }
}

impl From<RoomSummary> for PublicRoom {
    fn from(summary: RoomSummary) -> Self {
        Self {
            join_rule: summary.join_rule.kind().to_string(),
            room_id: summary.room_id,
            name: summary.name,
            topic: summary.topic,
            canonical_alias: summary.canonical_alias,
            avatar_url: summary.avatar_url.map(|url| url.to_string()),
            joined_members: summary.num_joined_members.into(),
            room_type: summary.room_type.map(|room_type| room_type.to_string()),
            world_readable: summary.world_readable,
            guest_can_join: summary.guest_can_join,
        }
    }
}

/// On which side of a place a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    After,
    Before,
}

/// The token of the page beside a room.
fn token(step: Step, room: &PublicRoom) -> String {
    let letter = match step {
        Step::After => 'a',
        Step::Before => 'b',
    };
    format!("{letter}{}_{}", room.joined_members, room.room_id)
}

/// Reads a token.
fn parse_token(token: &str) -> Result<(Step, Place), RoomError> {
    let parse = || {
        let step = match token.chars().next()? {
            'a' => Step::After,
            'b' => Step::Before,
            _ => return None,
        };
        let (members, room_id) = token.get(1..)?.split_once('_')?;
        let place = (Reverse(members.parse().ok()?), RoomId::parse(room_id).ok()?);
        Some((step, place))
    };
    parse().ok_or_else(|| RoomError::InvalidParam("not a token of the directory".to_owned()))
}
