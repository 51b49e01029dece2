//! Merging forks: state resolution that costs what the conflict costs.
//!
//! The roots are compared to find the conflicted keys; auth edges are walked from the differing events
//! in falling ordinal order with a bit per state set to find the auth difference and (state resolution
//! v2.1) the conflicted subgraph; `ruma::state_res::resolve` is handed only the conflicted keys and the
//! unconflicted ones that its checks can ask for; the result is applied to the tree as a difference.
//! Property tests compare this with the plain call over full maps.

use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;

use crate::{
    schema::{EventOrdinal, StoredEvent},
    state::{NodeError, NodeSource, StateKeyOrdinal, StateRoot},
};

/// What resolution asks about a room's events. Synchronous: runs off the async threads, or over
/// events that are in memory.
pub trait EventSource {
    /// An event with its header (auth events as ordinals).
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError>;
    /// The ordinal of a state key, if the room ever had it.
    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError>;
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
    /// State keys whose event differs from the first root's.
    pub changes: Vec<(StateKeyOrdinal, Option<EventOrdinal>)>,
}

/// Resolves two or more states of one room.
pub fn resolve(
    _rules: &RoomVersionRules,
    _roots: &[StateRoot],
    _events: &impl EventSource,
    _nodes: &impl NodeSource,
) -> Result<Resolution, ResolveError> {
    todo!()
}
