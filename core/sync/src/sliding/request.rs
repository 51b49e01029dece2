//! What a client asks, whichever form it came in.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, presence::PresenceState};

use super::required::RequiredState;
use crate::SyncError;

/// Lists of one request (MSC4186, "Top-level").
pub(crate) const MAX_LISTS: usize = 100;
/// Subscriptions of one request (MSC4186, "Top-level").
pub(crate) const MAX_SUBSCRIPTIONS: usize = 100;
/// Ranges of one list; the accepted form has one.
pub(crate) const MAX_RANGES: usize = 20;
/// Elements of one `required_state`: each state event is held against all of them.
pub(crate) const MAX_REQUIRED: usize = 100;
/// Elements of the different `required_state` of all lists together: a room may be in each of them.
pub(crate) const MAX_REQUIRED_TOGETHER: usize = 500;
/// Greatest length of a type or a state key in `required_state`, in bytes: no event has a longer one
/// (CS "Size limits").
pub(crate) const MAX_KEY_BYTES: usize = 255;
/// Different spaces that the filters of all lists name: the state of each is read.
pub(crate) const MAX_SPACES: usize = 200;
/// Spaces, types or tags that one filter names.
pub(crate) const MAX_FILTERED: usize = 100;
/// Lists or rooms that one extension names.
pub(crate) const MAX_SCOPE: usize = 200;
/// Greatest length of the names that a client gives to connections, lists and requests, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// Which of the two forms a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlidingForm {
    /// `/unstable/org.matrix.simplified_msc3575/sync`.
    Deployed,
    /// `/v4/sync`.
    Accepted,
}

/// A request's body, read and within its bounds.
#[derive(Clone, Debug)]
pub struct SlidingBody {
    pub(crate) form: SlidingForm,
    pub(crate) conn_id: String,
    pub(crate) txn_id: Option<String>,
    pub(crate) rules: Rules,
    /// The `since` of the to-device extension.
    pub(crate) to_device_since: Option<String>,
    /// The accepted form's `pos`.
    pub pos: Option<String>,
    /// The accepted form's `timeout`, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The accepted form's `set_presence`.
    pub set_presence: Option<PresenceState>,
}

/// Some of a request's lists, by their places among [`Rules::lists`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ListSet(u128);

const _: () = assert!(MAX_LISTS <= u128::BITS as usize, "each list has a bit");

impl ListSet {
    pub(crate) fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of these lists that are in the set.
    pub(crate) fn of(self, lists: &[List]) -> impl Iterator<Item = &List> {
        let is_in = move |place: usize| self.0 & (1 << place) != 0;
        lists.iter().enumerate().filter(move |(place, _)| is_in(*place)).map(|(_, list)| list)
    }
}

/// What stays the same while a client only polls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// By name, at most [`MAX_LISTS`].
    pub(crate) lists: Vec<List>,
    pub(crate) subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    pub(crate) extensions: Extensions,
}

/// What tells rules apart that are not kept, within one run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RulesHash(pub(crate) u64);

/// A window on the user's rooms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct List {
    pub(crate) name: String,
    /// Both ends inclusive; `None`: all rooms.
    pub(crate) ranges: Option<Vec<(u64, u64)>>,
    pub(crate) filter: Filter,
    pub(crate) config: RoomConfig,
}

/// What to tell of a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoomConfig {
    pub(crate) timeline_limit: u64,
    pub(crate) required: RequiredState,
}

/// Which rooms a list has (MSC4186, `SlidingRoomFilter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    pub(crate) is_dm: Option<bool>,
    pub(crate) is_encrypted: Option<bool>,
    pub(crate) is_invite: Option<bool>,
    pub(crate) spaces: Option<Vec<OwnedRoomId>>,
    pub(crate) room_types: Option<Vec<Option<String>>>,
    pub(crate) not_room_types: Vec<Option<String>>,
    /// Part of the room's name, in lower case; only the deployed form has it.
    pub(crate) name_like: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) not_tags: Vec<String>,
}

impl Filter {
    pub(crate) fn asks_tags(&self) -> bool {
        self.tags.is_some() || !self.not_tags.is_empty()
    }
}

/// What is told beside rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Extensions {
    /// Messages to the device: how many at most.
    pub(crate) to_device: Option<usize>,
    pub(crate) e2ee: bool,
    pub(crate) account_data: Option<Scope>,
    pub(crate) receipts: Option<Scope>,
    pub(crate) typing: Option<Scope>,
}

/// Which rooms an extension speaks of, among those that the client has in view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// Lists by name, `*` for all; `None`: all.
    pub(crate) lists: Option<Vec<String>>,
    /// Rooms by ID, `*` for all that are subscribed to; `None`: those.
    pub(crate) rooms: Option<Vec<String>>,
}

impl Scope {
    /// Does this speak of a room that is in these lists, or subscribed to?
    pub(crate) fn covers(
        &self,
        rules: &Rules,
        lists: ListSet,
        subscribed: bool,
        room_id: &str,
    ) -> bool {
        let has = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|n| n == name || n == "*"))
        };
        let named = lists.of(&rules.lists).any(|list| has(&self.lists, &list.name));
        let chosen = |rooms: &Vec<String>| rooms.iter().any(|id| id == room_id);
        named
            || (subscribed && has(&self.rooms, room_id))
            || self.rooms.as_ref().is_some_and(chosen)
    }
}

/// Is this an opaque identifier (CS appendix "Opaque Identifiers")? Its length is another matter.
fn is_opaque_id(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !name.is_empty() && name.bytes().all(fits)
}

/// [`SyncError::InvalidParam`] unless there are at most so many.
pub(crate) fn at_most(count: usize, max: usize, what: &str) -> Result<(), SyncError> {
    if count <= max {
        return Ok(());
    }
    Err(SyncError::InvalidParam(format!("{what}: at most {max} are allowed")))
}

impl SlidingBody {
    /// Holds the parts against the bounds above.
    pub(crate) fn checked(self) -> Result<Self, SyncError> {
        let Self { rules, conn_id, txn_id, .. } = &self;
        at_most(conn_id.len(), MAX_NAME_BYTES, "conn_id: bytes")?;
        at_most(txn_id.as_ref().map_or(0, String::len), MAX_NAME_BYTES, "txn_id: bytes")?;
        at_most(rules.lists.len(), MAX_LISTS, "lists")?;
        at_most(rules.subscriptions.len(), MAX_SUBSCRIPTIONS, "room_subscriptions")?;
        for List { name, ranges, filter, config } in &rules.lists {
            at_most(name.len(), MAX_NAME_BYTES, "lists: bytes of a name")?;
            if self.form == SlidingForm::Accepted && !is_opaque_id(name) {
                return Err(SyncError::InvalidParam("lists: not an opaque identifier".to_owned()));
            }
            at_most(ranges.as_ref().map_or(0, Vec::len), MAX_RANGES, "ranges")?;
            if ranges.iter().flatten().any(|(first, last)| first > last) {
                let text = "ranges: the first index is greater than the last";
                return Err(SyncError::InvalidParam(text.to_owned()));
            }
            filter.check()?;
            config.check()?;
        }
        rules.subscriptions.values().try_for_each(RoomConfig::check)?;
        rules.check_lists()?;
        let Extensions { account_data, receipts, typing, .. } = &rules.extensions;
        for scope in [account_data, receipts, typing].into_iter().flatten() {
            at_most(scope.lists.as_ref().map_or(0, Vec::len), MAX_SCOPE, "extensions: lists")?;
            at_most(scope.rooms.as_ref().map_or(0, Vec::len), MAX_SCOPE, "extensions: rooms")?;
        }
        Ok(self)
    }
}

impl Rules {
    /// Holds against their bounds what all lists ask for together.
    fn check_lists(&self) -> Result<(), SyncError> {
        let required = self.lists.iter().map(|list| &list.config.required);
        let required = required.fold(RequiredState::default(), RequiredState::union);
        at_most(required.len(), MAX_REQUIRED_TOGETHER, "required_state of all lists")?;
        let spaces = self.lists.iter().flat_map(|list| list.filter.spaces.iter().flatten());
        at_most(spaces.collect::<BTreeSet<_>>().len(), MAX_SPACES, "spaces of all lists")
    }
}

impl RoomConfig {
    fn check(&self) -> Result<(), SyncError> {
        let what = "required_state: bytes of a type or state key";
        at_most(self.required.longest_part(), MAX_KEY_BYTES, what)?;
        at_most(self.required.len(), MAX_REQUIRED, "required_state")
    }
}

impl Filter {
    fn check(&self) -> Result<(), SyncError> {
        let counts = [
            ("spaces", self.spaces.as_ref().map_or(0, Vec::len)),
            ("room_types", self.room_types.as_ref().map_or(0, Vec::len)),
            ("not_room_types", self.not_room_types.len()),
            ("tags", self.tags.as_ref().map_or(0, Vec::len)),
            ("not_tags", self.not_tags.len()),
        ];
        counts.into_iter().try_for_each(|(what, count)| at_most(count, MAX_FILTERED, what))?;
        at_most(self.name_like.as_ref().map_or(0, String::len), MAX_NAME_BYTES, "room_name_like")
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomId;

    use super::{
        super::required::{Element, StateSet},
        *,
    };

    fn rules(names: &[&str]) -> Rules {
        let list = |name: &&str| List {
            name: (*name).to_owned(),
            ranges: None,
            filter: Filter::default(),
            config: RoomConfig { timeline_limit: 1, required: RequiredState::default() },
        };
        Rules {
            lists: names.iter().map(list).collect(),
            subscriptions: BTreeMap::new(),
            extensions: Extensions::default(),
        }
    }

    fn with_elements(number: usize, count: usize) -> RequiredState {
        let element = |n: usize| Element { kind: Some(format!("{number}.{n}")), key: None };
        StateSet { include: (0..count).map(element).collect(), ..StateSet::default() }.into()
    }

    #[test]
    fn what_lists_ask_for_together_is_bounded() {
        let names: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut same = rules(&names);
        for list in &mut same.lists {
            list.config.required = with_elements(0, MAX_REQUIRED);
        }
        assert!(same.check_lists().is_ok(), "the same of each list counts once");
        let mut different = rules(&names);
        for (number, list) in different.lists.iter_mut().enumerate() {
            list.config.required = with_elements(number, MAX_REQUIRED);
        }
        assert!(different.check_lists().is_err());
        different.lists.pop();
        assert!(different.check_lists().is_ok());
        let space = |number: usize| RoomId::parse(format!("!{number}:x")).unwrap();
        let mut spaces = rules(&["a", "b"]);
        spaces.lists[0].filter.spaces = Some((0..MAX_SPACES).map(space).collect());
        spaces.lists[1].filter.spaces = Some(vec![space(0)]);
        assert!(spaces.check_lists().is_ok());
        spaces.lists[1].filter.spaces = Some(vec![space(MAX_SPACES)]);
        assert!(spaces.check_lists().is_err());
    }

    #[test]
    fn types_and_keys_are_as_long_as_those_of_events() {
        let config = |length: usize| {
            let element = Element { kind: None, key: Some("k".repeat(length)) };
            let set = StateSet { exclude: vec![element], ..StateSet::default() };
            RoomConfig { timeline_limit: 1, required: set.into() }
        };
        assert!(config(MAX_KEY_BYTES).check().is_ok());
        assert!(config(MAX_KEY_BYTES + 1).check().is_err());
    }

    #[test]
    fn extensions_cover_all_or_what_they_name() {
        let rules = rules(&["a", "b"]);
        let covers = |scope: &Scope, lists, subscribed, room_id| {
            scope.covers(&rules, ListSet(lists), subscribed, room_id)
        };
        let all = Scope::default();
        assert!(covers(&all, 0b01, false, "!r:x"));
        assert!(covers(&all, 0, true, "!r:x"));
        assert!(!covers(&all, 0, false, "!r:x"));
        let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
        let only_b = Scope { lists: names(&["b"]), rooms: names(&[]) };
        assert!(!covers(&only_b, 0b01, true, "!r:x"));
        assert!(covers(&only_b, 0b10, false, "!r:x"));
        let subscribed = Scope { lists: names(&[]), rooms: names(&["*"]) };
        assert!(covers(&subscribed, 0b11, true, "!r:x"));
        assert!(!covers(&subscribed, 0b11, false, "!r:x"));
        let one = Scope { lists: names(&[]), rooms: names(&["!r:x"]) };
        assert!(covers(&one, 0b01, false, "!r:x"));
        assert!(!covers(&one, 0b01, true, "!s:x"));
    }
}
