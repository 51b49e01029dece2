//! Questions about rooms. Nothing here writes.

mod aggregations;
pub mod filter;
mod gaps;
pub mod hierarchy;
pub mod history_visibility;
pub mod members;
mod newest;
mod redactions;
pub mod relations;
pub mod state;
pub mod summary;
pub mod threads;
pub mod timeline;
pub mod tokens;
pub mod unread;
pub mod visibility;

pub(crate) use self::{
    history_visibility::{ByRoot, VisibilityInStates},
    newest::NewestRows,
};

pub use self::{
    filter::TimelineFilter,
    hierarchy::{HierarchyPage, HierarchyRequest, HierarchyRoom},
    history_visibility::HistoryVisibility,
    members::{JoinedMember, MembersRequest},
    relations::{RelationsPage, RelationsRequest},
    state::StatePart,
    summary::Preview,
    threads::{ThreadsPage, ThreadsRequest},
    timeline::{EventContext, Ignored, MessagesPage, MessagesRequest, Scan, Stretch},
    tokens::TimelineToken,
    unread::{LedgerTail, ReadMarks, UnreadCounts, UnreadTotals},
    visibility::{Access, Visibility},
};
