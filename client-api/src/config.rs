//! The configuration section `[client]`.

use hearth_users::Secret;
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
    /// What helps clients to call each other.
    pub calls: CallsConfig,
}

/// The section `[client.calls]`: servers that carry calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallsConfig {
    /// URIs of TURN servers, over which clients reach each other that cannot do so directly. Empty: none.
    pub turn_uris: Vec<String>,
    /// The secret that the TURN servers share with this one, for credentials that expire.
    pub turn_shared_secret: Option<Secret>,
    /// The one user name that the TURN servers take, where there is no shared secret.
    pub turn_username: Option<String>,
    /// Its password.
    pub turn_password: Option<Secret>,
    /// Seconds for which clients use credentials before they ask for others.
    pub turn_lifetime_s: u64,
    /// May guests have credentials?
    pub turn_for_guests: bool,
    /// URLs of services that hand out access to LiveKit, over which MatrixRTC calls run. Empty: none.
    pub livekit_service_urls: Vec<String>,
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            turn_uris: Vec::new(),
            turn_shared_secret: None,
            turn_username: None,
            turn_password: None,
            turn_lifetime_s: 86_400,
            turn_for_guests: false,
            livekit_service_urls: Vec::new(),
        }
    }
}

impl CallsConfig {
    /// Names the first field whose value cannot be used.
    fn validate(&self) -> Result<(), String> {
        if let Some(uri) = self.turn_uris.iter().find(|uri| !is_turn_uri(uri)) {
            return Err(format!("turn_uris: {uri:?} must begin with turn: or turns:"));
        }
        if let Some(url) = self.livekit_service_urls.iter().find(|url| !is_web_address(url)) {
            return Err(format!("livekit_service_urls: {url:?} must begin with https://"));
        }
        if self.turn_lifetime_s == 0 {
            return Err("turn_lifetime_s: must be at least 1".to_owned());
        }
        let is_static = self.turn_username.is_some() && self.turn_password.is_some();
        if !self.turn_uris.is_empty() && self.turn_shared_secret.is_none() && !is_static {
            return Err("turn_uris: needs turn_shared_secret, or turn_username and turn_password"
                .to_owned());
        }
        Ok(())
    }
}

fn is_turn_uri(uri: &str) -> bool {
    uri.starts_with("turn:") || uri.starts_with("turns:")
}

fn is_web_address(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
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
                && !is_web_address(url)
            {
                return Err(format!(
                    "{name}: {url:?} must begin with https:// (or http:// for trials)"
                ));
            }
        }
        self.calls.validate().map_err(|reason| format!("calls.{reason}"))
    }

    /// The base URL without a slash at its end, as clients append paths to it.
    pub(crate) fn base_url(&self) -> Option<String> {
        self.base_url.as_deref().map(|url| url.trim_end_matches('/').to_owned())
    }
}
