//! Merging forks: state resolution that costs what the conflict costs.
//!
//! 1. The roots are compared: which state keys conflict (`conflict`).
//! 2. Auth edges are walked from the conflicting events in falling ordinal order, with a bit for each
//!    state, until every chain still open belongs to all of them: the auth difference, and for state
//!    resolution v2.1 the conflicted subgraph (`difference`).
//! 3. `ruma::state_res::resolve` is handed the conflicted keys and the few unconflicted ones that its
//!    checks can ask for; its answer comes back as changes to the first root (`algorithm`).
//!
//! No step expands a state. The one question that seems to need it is whether an event is in the auth
//! chain of any of the *unconflicted* events (thousands, in a large room), for then it is in every
//! chain and no part of the difference. It is asked the other way round, upwards from the few events in
//! question along [`EventSource::auth_children`].
//!
//! Property tests compare this with the plain call over full maps.

mod algorithm;
mod conflict;
mod difference;
mod graph;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;

pub use self::source::RoomEvents;
use self::{conflict::Conflict, graph::Graph};
use crate::{
    schema::{EventOrdinal, StoredEvent},
    state::{NodeError, NodeSource, StateKeyOrdinal, StateRoot},
};

/// Different states that one resolution takes. An event names at most 20 previous events, each with
/// one state; a room's forward extremities are kept below this by its writer.
pub const MAX_STATES: usize = 64;

/// What one resolution may read before it gives up: it holds all of it in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub events: usize,
    /// Bytes of these events.
    pub bytes: usize,
}

/// What any resolution may read: more than the conflicts of the largest rooms.
pub const MAX_READ: Bounds = Bounds { events: 1_000_000, bytes: 1024 * 1024 * 1024 };

/// What resolution asks about a room's events. Synchronous: runs off the async threads, or over
/// events that are in memory.
pub trait EventSource {
    /// An event with its header (auth events as ordinals, in the order in which the event names them).
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError>;
    /// The ordinal of a state key, if the room ever had it.
    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError>;
    /// State events that name `parent` among their auth events and have ordinals below `before`, the
    /// newest first; some of them (about 16), none only if there are no more.
    fn auth_children(
        &self,
        parent: EventOrdinal,
        before: EventOrdinal,
    ) -> Result<Vec<EventOrdinal>, ResolveError>;
}

/// Why a resolution failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The tree is damaged.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An event that must be there is not.
    #[error("event {0} of the room is missing")]
    MissingEvent(EventOrdinal),
    /// An event is not what it must be.
    #[error("event {0} of the room: {1}")]
    Damaged(EventOrdinal, &'static str),
    /// More than [`MAX_STATES`], or than the [`Bounds`].
    #[error("state resolution: more than {0}")]
    TooLarge(&'static str),
    /// ruma refused.
    #[error("state resolution: {0}")]
    Algorithm(String),
    /// The store failed.
    #[error("state resolution: {0}")]
    Store(String),
}

/// The resolved state as changes against the first root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// State keys whose event differs from the first root's, in key order.
    pub changes: Vec<(StateKeyOrdinal, Option<EventOrdinal>)>,
}

/// Resolves two or more states of one room. Without any conflict there are no changes.
pub fn resolve(
    rules: &RoomVersionRules,
    roots: &[StateRoot],
    events: &impl EventSource,
    nodes: &impl NodeSource,
) -> Result<Resolution, ResolveError> {
    resolve_within(MAX_READ, rules, roots, events, nodes)
}

/// The same, reading no more than this.
pub fn resolve_within(
    bounds: Bounds,
    rules: &RoomVersionRules,
    roots: &[StateRoot],
    events: &impl EventSource,
    nodes: &impl NodeSource,
) -> Result<Resolution, ResolveError> {
    let rules_v2 = *rules
        .state_res
        .v2_rules()
        .ok_or_else(|| ResolveError::Algorithm("room version 1 is not served".to_owned()))?;
    let conflict = Conflict::between(roots, nodes)?;
    if conflict.keys.is_empty() {
        return Ok(Resolution::default());
    }
    let graph = Graph::new(events, nodes, &conflict, bounds);
    algorithm::run(&rules.authorization, rules_v2, &conflict, &graph)
}
