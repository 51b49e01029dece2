//! The user directory (CS "User Directory"): an index in memory over local users' names.

use ruma::{OwnedUserId, UserId};

use crate::Users;

/// A user that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryMatch {
    /// The user.
    pub user_id: OwnedUserId,
    /// Their display name.
    pub display_name: Option<String>,
    /// Their avatar's URL.
    pub avatar_url: Option<String>,
}

impl Users {
    /// Active local users of whom every word of `term` starts a word of the user name or display name,
    /// whatever the case; whole words first, then by ID. `visible` says whether the searcher may see a
    /// user and is asked at most some thousand times. Returns at most `limit` matches, and whether
    /// there were more.
    #[must_use]
    pub fn search_directory(
        &self,
        term: &str,
        limit: usize,
        visible: impl FnMut(&UserId) -> bool,
    ) -> (Vec<DirectoryMatch>, bool) {
        todo!()
    }
}
