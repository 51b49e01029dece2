//! Questions about rooms. Nothing here writes.

pub mod filter;
pub mod members;
pub mod state;
pub mod timeline;
pub mod tokens;
pub mod unread;
pub mod visibility;

pub use self::{
    filter::TimelineFilter,
    members::{JoinedMember, MembersRequest},
    state::StatePart,
    timeline::{EventContext, Ignored, MessagesPage, MessagesRequest, Scan, Stretch},
    tokens::TimelineToken,
    unread::{ReadMarks, UnreadCounts, UnreadTotals},
    visibility::{Access, HistoryVisibility, Visibility},
};
