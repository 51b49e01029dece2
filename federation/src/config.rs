//! The section `[federation]`.

use std::path::PathBuf;

use ipnet::IpNet;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

/// How this server federates. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationConfig {
    /// Whether it does at all.
    pub enabled: bool,
    /// If not empty, only these servers are spoken to and heard. Names may begin with `*.`.
    pub allow: Vec<String>,
    /// These servers are neither spoken to nor heard.
    pub deny: Vec<String>,
    /// Networks that requests may go to although they are private or loopback.
    pub allow_networks: Vec<IpNet>,
    /// Files with further CA certificates to trust, in PEM.
    pub ca_files: Vec<PathBuf>,
    /// Servers that are asked for others' keys when those do not answer.
    pub notaries: Vec<OwnedServerName>,
    /// What `/.well-known/matrix/server` says: `name` or `name:port`. Not served without.
    pub well_known: Option<OwnedServerName>,
    /// How long one request may take, in seconds.
    pub request_timeout_s: u64,
    /// Requests in flight to all servers together.
    pub max_requests: usize,
    /// First step of the backoff, in seconds.
    pub backoff_min_s: u64,
    /// Longest step of the backoff, in seconds.
    pub backoff_max_s: u64,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: Vec::new(),
            deny: Vec::new(),
            allow_networks: Vec::new(),
            ca_files: Vec::new(),
            notaries: Vec::new(),
            well_known: None,
            request_timeout_s: 60,
            max_requests: 256,
            backoff_min_s: 10,
            backoff_max_s: 86_400,
        }
    }
}

impl FederationConfig {
    /// May this server be spoken to and heard?
    #[must_use]
    pub fn admits(&self, _server: &ruma::ServerName) -> bool {
        unimplemented!("fed-transport")
    }

    /// Checks what the types leave open; the error says what to change.
    pub fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}
