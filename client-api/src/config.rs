//! The configuration section `[client]`.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

/// What clients are told about this server, and what they may do to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// The address under which clients reach this server, as `https://matrix.example.org`. Served in
    /// `/.well-known/matrix/client` and in answers to logins. Unset: neither is served.
    pub base_url: Option<String>,
    /// An e-mail address of the administrators: served in `/.well-known/matrix/support`.
    pub support_email: Option<String>,
    /// A Matrix user who administers this server: served in `/.well-known/matrix/support`.
    pub support_user: Option<OwnedUserId>,
    /// A page with help for users: served in `/.well-known/matrix/support`.
    pub support_page: Option<String>,
    /// Who may make room aliases in this server's name.
    pub alias_creation: AliasCreation,
}

/// Who may make room aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AliasCreation {
    /// Every local user.
    #[default]
    Everyone,
    /// Server administrators only.
    Admins,
}

impl ClientConfig {
    /// Names the first field whose value cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        for (name, url) in [("base_url", &self.base_url), ("support_page", &self.support_page)] {
            if let Some(url) = url
                && !(url.starts_with("https://") || url.starts_with("http://"))
            {
                return Err(format!(
                    "{name}: {url:?} must begin with https:// (or http:// for trials)"
                ));
            }
        }
        Ok(())
    }

    /// The base URL without a slash at its end, as clients append paths to it.
    pub(crate) fn base_url(&self) -> Option<String> {
        self.base_url.as_deref().map(|url| url.trim_end_matches('/').to_owned())
    }
}
