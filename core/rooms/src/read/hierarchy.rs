//! Spaces (`GET /rooms/{roomId}/hierarchy`, CS "Managing rooms/spaces"): a depth-first walk over the
//! rooms that this server knows, and those that it can ask others about.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    room::{RoomSummary, RoomType},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{StatePart, tokens::parse_number};
use crate::{ReadError, RoomError, Rooms, format::stripped_event_with_time, schema::StoredEvent};

/// Rooms in one page at most.
pub const MAX_PAGE: usize = 100;
/// Greatest depth that a request may ask for; the default too.
pub const MAX_DEPTH: u64 = 20;
/// Rooms that one walk visits; larger spaces are cut there.
const MAX_ROOMS: usize = 1_000;
/// Children of one space that are looked at.
const MAX_CHILDREN: usize = 1_000;
/// Rooms of one walk that other servers are asked for; further ones are left out.
const MAX_ASKED: usize = 50;
/// Servers of one child that are asked.
const MAX_VIA: usize = 3;
const CHILD: &str = "m.space.child";

/// A walk.
#[derive(Clone, Debug)]
pub struct HierarchyRequest {
    /// The `next_batch` of the page before.
    pub from: Option<String>,
    /// How many rooms; cut to [`MAX_PAGE`].
    pub limit: usize,
    /// How deep; [`MAX_DEPTH`] if absent.
    pub max_depth: Option<u64>,
    /// Only children that are marked as suggested.
    pub suggested_only: bool,
}

/// One room of a space.
#[derive(Clone, Debug)]
pub struct HierarchyRoom {
    /// The room in a few words.
    pub summary: RoomSummary,
    /// The space's `m.space.child` events, stripped but for their time.
    pub children_state: Vec<Box<RawValue>>,
}

/// What [`Rooms::hierarchy`] found.
#[derive(Clone, Debug)]
pub struct HierarchyPage {
    /// The rooms, the space itself first.
    pub rooms: Vec<HierarchyRoom>,
    /// Where to go on; `None` when nothing is left.
    pub next_batch: Option<String>,
}

/// A place in a walk: how many rooms were shown, and what may not change between pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WalkToken {
    shown: usize,
    max_depth: u64,
    suggested_only: bool,
}

const TOKEN_PREFIX: &str = "h1";

impl fmt::Display for WalkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suggested_only = u8::from(self.suggested_only);
        write!(f, "{TOKEN_PREFIX}_{}_{}_{suggested_only}", self.shown, self.max_depth)
    }
}

impl FromStr for WalkToken {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        let wrong = || RoomError::InvalidParam("unknown pagination token".to_owned());
        let parts: Vec<&str> = text.split('_').collect();
        let [TOKEN_PREFIX, shown, max_depth, suggested_only] = parts.as_slice() else {
            return Err(wrong());
        };
        let shown = parse_number(shown).and_then(|shown| usize::try_from(shown).ok());
        Ok(Self {
            shown: shown.filter(|shown| *shown <= MAX_ROOMS).ok_or_else(wrong)?,
            max_depth: parse_number(max_depth).ok_or_else(wrong)?,
            suggested_only: match *suggested_only {
                "0" => false,
                "1" => true,
                _ => return Err(wrong()),
            },
        })
    }
}

/// A room to be visited.
struct Stop {
    room_id: OwnedRoomId,
    depth: u64,
    /// Servers that should know it, if this one does not.
    via: Vec<OwnedServerName>,
}

/// What other servers say during one walk.
#[derive(Default)]
struct Told {
    /// Rooms that were shown beside their space.
    rooms: HashMap<OwnedRoomId, RoomSummary>,
    /// How often one of them was asked.
    asked: usize,
}

/// A room, and what is in it if it is a space.
struct Visit {
    summary: RoomSummary,
    children: Vec<Child>,
}

impl Rooms {
    /// A page of a space's rooms: those that the reader may be told about (as for
    /// [`preview`](Self::preview)). [`RoomError::Forbidden`] if the space itself is not among them.
    pub async fn hierarchy(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        request: &HierarchyRequest,
    ) -> Result<HierarchyPage, ReadError> {
        let mut place = start(request)?;
        let limit = request.limit.clamp(1, MAX_PAGE);
        let mut rooms = Vec::new();
        let mut visited = HashSet::new();
        let mut met = 0;
        let mut told = Told::default();
        let mut stack = vec![Stop { room_id: room_id.to_owned(), depth: 0, via: Vec::new() }];
        while let Some(stop) = stack.pop() {
            if visited.len() >= MAX_ROOMS {
                break;
            }
            if !visited.insert(stop.room_id.clone()) {
                continue;
            }
            let visit = match self.visit(&stop, user_id, place.suggested_only, &mut told).await {
                Ok(visit) => visit,
                Err(RoomError::UnknownRoom) if stop.depth > 0 => continue,
                Err(RoomError::UnknownRoom) => {
                    let text = "you are not allowed to view this room";
                    return Err(RoomError::Forbidden(text.to_owned()));
                }
                Err(error) => return Err(error),
            };
            if rooms.len() >= limit {
                place.shown += rooms.len();
                return Ok(HierarchyPage { rooms, next_batch: Some(place.to_string()) });
            }
            let Visit { summary, children } = visit;
            if stop.depth < place.max_depth {
                let depth = stop.depth + 1;
                let stops = children.iter().map(|child| child.stop(depth));
                stack.extend(stops.rev());
            }
            met += 1;
            if met > place.shown {
                let children_state = children.into_iter().map(|child| child.shown).collect();
                rooms.push(HierarchyRoom { summary, children_state });
            }
        }
        Ok(HierarchyPage { rooms, next_batch: None })
    }

    /// Looks at one room: at this server's own rows if they are here, else at what others say.
    async fn visit(
        &self,
        stop: &Stop,
        user_id: &UserId,
        suggested_only: bool,
        told: &mut Told,
    ) -> Result<Visit, ReadError> {
        let summary = match self.preview(&stop.room_id, Some(user_id)).await {
            Ok(preview) => preview.summary,
            Err(RoomError::UnknownRoom) => {
                return self.visit_elsewhere(stop, user_id, suggested_only, told).await;
            }
            Err(error) => return Err(error),
        };
        let children = match summary.room_type {
            Some(RoomType::Space) => self.space_children(&stop.room_id, suggested_only).await?,
            _ => Vec::new(),
        };
        Ok(Visit { summary, children })
    }

    /// Asks other servers for a room that this one is not in.
    async fn visit_elsewhere(
        &self,
        stop: &Stop,
        user_id: &UserId,
        suggested_only: bool,
        told: &mut Told,
    ) -> Result<Visit, ReadError> {
        let room_id = &stop.room_id;
        if let Some(summary) = told.rooms.remove(room_id)
            && summary.room_type != Some(RoomType::Space)
        {
            let summary = self.if_shown(summary, user_id).await?;
            return Ok(Visit { summary, children: Vec::new() });
        }
        if stop.via.is_empty() || told.asked >= MAX_ASKED || self.is_resident(room_id).await? {
            return Err(RoomError::UnknownRoom);
        }
        let remote = self.remote().ok_or(RoomError::UnknownRoom)?;
        told.asked += 1;
        let via = stop.via.iter().take(MAX_VIA).cloned().collect();
        let answer = match remote.hierarchy(room_id.clone(), suggested_only, via).await {
            Ok(answer) => answer,
            Err(error @ RoomError::Internal(_)) => return Err(error),
            Err(_) => return Err(RoomError::UnknownRoom),
        };
        let summary = self.if_shown(answer.room.summary, user_id).await?;
        told.rooms.extend(answer.children.into_iter().map(|room| (room.room_id.clone(), room)));
        let shown = answer.room.children_state.into_iter().take(MAX_CHILDREN);
        let mut children: Vec<Child> =
            shown.filter_map(|event| Child::of_stripped(event, suggested_only)).collect();
        children.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(Visit { summary, children })
    }

    /// The summary that another server gives of a room, if this user may be told about it.
    async fn if_shown(
        &self,
        summary: RoomSummary,
        user_id: &UserId,
    ) -> Result<RoomSummary, ReadError> {
        // A membership that this server knew of would have shown the room from its own rows.
        if self.may_preview(&summary, None, Some(user_id)).await? {
            Ok(summary)
        } else {
            Err(RoomError::UnknownRoom)
        }
    }

    /// A space's children in their order.
    pub(crate) async fn space_children(
        &self,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Vec<Child>, ReadError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let state = self.state_events(room_id, head.state, StatePart::Rest).await?;
        let mut children: Vec<Child> = state
            .into_iter()
            .filter_map(|event| Child::of(&event, suggested_only))
            .take(MAX_CHILDREN)
            .collect();
        children.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(children)
    }
}

/// Where the walk begins.
fn start(request: &HierarchyRequest) -> Result<WalkToken, RoomError> {
    let max_depth = request.max_depth.map_or(MAX_DEPTH, |depth| depth.min(MAX_DEPTH));
    let asked = WalkToken { shown: 0, max_depth, suggested_only: request.suggested_only };
    let Some(from) = &request.from else { return Ok(asked) };
    let place: WalkToken = from.parse()?;
    if (WalkToken { shown: 0, ..place }) != asked {
        let text = "max_depth and suggested_only must stay as they were on the first page";
        return Err(RoomError::InvalidParam(text.to_owned()));
    }
    Ok(place)
}

/// A valid `m.space.child` event (CS "m.space.child relationship").
pub(crate) struct Child {
    pub(crate) room_id: OwnedRoomId,
    order: Option<String>,
    via: Vec<OwnedServerName>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The event, stripped but for its time.
    pub(crate) shown: Box<RawValue>,
}

impl Child {
    fn of(event: &StoredEvent, suggested_only: bool) -> Option<Self> {
        if event.pdu.kind().to_string() != CHILD {
            return None;
        }
        Self::of_stripped(stripped_event_with_time(event).ok()?, suggested_only)
    }

    /// Children without servers to join by have been removed.
    fn of_stripped(shown: Box<RawValue>, suggested_only: bool) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "type")]
            kind: String,
            state_key: OwnedRoomId,
            origin_server_ts: MilliSecondsSinceUnixEpoch,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            via: Vec<String>,
            #[serde(default)]
            order: serde_json::Value,
            #[serde(default)]
            suggested: serde_json::Value,
        }
        let event: Event = serde_json::from_str(shown.get()).ok()?;
        let content = event.content;
        if event.kind != CHILD
            || content.via.is_empty()
            || (suggested_only && content.suggested != true)
        {
            return None;
        }
        let order = content.order.as_str().filter(|order| is_valid_order(order));
        Some(Self {
            room_id: event.state_key,
            order: order.map(str::to_owned),
            via: content.via.iter().filter_map(|name| ServerName::parse(name).ok()).collect(),
            origin_server_ts: event.origin_server_ts,
            shown,
        })
    }

    fn stop(&self, depth: u64) -> Stop {
        Stop { room_id: self.room_id.clone(), depth, via: self.via.clone() }
    }

    /// Those with an order come first, by it; then by time, then by ID (CS "Ordering of children").
    fn place(&self) -> (bool, Option<&str>, MilliSecondsSinceUnixEpoch, &RoomId) {
        (self.order.is_none(), self.order.as_deref(), self.origin_server_ts, &self.room_id)
    }
}

/// At most 50 printable ASCII characters.
fn is_valid_order(order: &str) -> bool {
    order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_foreign_ones_refused() {
        let token = WalkToken { shown: 40, max_depth: 3, suggested_only: true };
        assert_eq!(token.to_string().parse::<WalkToken>().unwrap(), token);
        for text in
            ["", "h1", "h1_1_2", "h1_1_2_3", "h1_-1_2_0", "h2_1_2_0", "h1_1_2_0_", "h1_9999_1_0"]
        {
            assert!(matches!(text.parse::<WalkToken>(), Err(RoomError::InvalidParam(_))), "{text}");
        }
    }

    #[test]
    fn parameters_may_not_change_between_pages() {
        let request = |from: Option<&str>, max_depth, suggested_only| HierarchyRequest {
            from: from.map(str::to_owned),
            limit: 10,
            max_depth,
            suggested_only,
        };
        assert_eq!(start(&request(Some("h1_5_2_0"), Some(2), false)).unwrap().shown, 5);
        assert!(start(&request(Some("h1_5_2_0"), Some(3), false)).is_err());
        assert!(start(&request(Some("h1_5_2_0"), None, false)).is_err());
        assert!(start(&request(Some("h1_5_2_0"), Some(2), true)).is_err());
        assert_eq!(start(&request(None, Some(u64::MAX), false)).unwrap().max_depth, MAX_DEPTH);
    }

    #[test]
    fn orders_are_short_and_printable() {
        assert!(is_valid_order(" ~az"));
        assert!(!is_valid_order(&"x".repeat(51)));
        assert!(!is_valid_order("\u{7F}"));
        assert!(!is_valid_order("\n"));
        assert!(!is_valid_order("é"));
    }
}
