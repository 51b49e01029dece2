//! The section `[federation]`.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use ruma::{OwnedServerName, ServerName};
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
    /// Whether other servers may list and search this server's room directory.
    pub share_directory: bool,
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
            share_directory: true,
            request_timeout_s: 60,
            max_requests: 256,
            backoff_min_s: 10,
            backoff_max_s: 86_400,
        }
    }
}

impl FederationConfig {
    /// May this server be spoken to and heard? Letter case and port make no difference.
    #[must_use]
    pub fn admits(&self, server: &ServerName) -> bool {
        let named_in = |patterns: &[String]| patterns.iter().any(|name| matches(name, server));
        !named_in(&self.deny) && (self.allow.is_empty() || named_in(&self.allow))
    }

    /// The time that one request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    /// Checks what the types leave open; the error begins with the field's name and says what to change.
    pub fn validate(&self) -> Result<(), String> {
        for (field, names) in [("allow", &self.allow), ("deny", &self.deny)] {
            for name in names {
                let server = <&ServerName>::try_from(host_of(name).unwrap_or(name));
                if server.is_err() || server.is_ok_and(|server| server.port().is_some()) {
                    return Err(format!(
                        "{field}: {name:?} must be a server name without a port, or *. and a domain"
                    ));
                }
            }
        }
        let at_least_one = [
            ("request_timeout_s", self.request_timeout_s > 0),
            ("max_requests", self.max_requests > 0),
            ("backoff_min_s", self.backoff_min_s > 0),
        ];
        for (field, holds) in at_least_one {
            if !holds {
                return Err(format!("{field}: must be at least 1"));
            }
        }
        if self.backoff_max_s < self.backoff_min_s {
            return Err("backoff_max_s: must not be less than backoff_min_s".to_owned());
        }
        Ok(())
    }
}

/// The domain of a pattern `*.domain`.
fn host_of(pattern: &str) -> Option<&str> {
    pattern.strip_prefix("*.")
}

/// Is this server the one that the pattern names, or below the domain that it names?
fn matches(pattern: &str, server: &ServerName) -> bool {
    let host = server.host();
    let Some(domain) = host_of(pattern) else {
        return host.eq_ignore_ascii_case(pattern);
    };
    // The rest must end with a dot, and a domain of all of the host leaves none.
    let Some(rest) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    match (host.get(..rest), host.get(rest..)) {
        (Some(below), Some(end)) => below.ends_with('.') && end.eq_ignore_ascii_case(domain),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(allow: &[&str], deny: &[&str]) -> FederationConfig {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        FederationConfig { allow: owned(allow), deny: owned(deny), ..FederationConfig::default() }
    }

    fn admits(config: &FederationConfig, server: &str) -> bool {
        config.admits(<&ServerName>::try_from(server).unwrap())
    }

    #[test]
    fn without_lists_everybody_is_admitted() {
        assert!(admits(&lists(&[], &[]), "example.org"));
        assert!(admits(&lists(&[], &[]), "[::1]:8448"));
    }

    #[test]
    fn denied_names_are_denied_in_any_case_and_on_any_port() {
        let config = lists(&[], &["Evil.example", "*.bad.example", "192.0.2.1", "[2001:db8::1]"]);
        for server in [
            "evil.example",
            "EVIL.example:443",
            "a.bad.example",
            "a.b.BAD.example:8448",
            "192.0.2.1:1",
            "[2001:DB8::1]:99",
        ] {
            assert!(!admits(&config, server), "{server}");
        }
        for server in ["good.example", "not-evil.example", "a.evil.example", "bad.example"] {
            assert!(admits(&config, server), "{server}");
        }
        assert!(admits(&config, "verybad.example"), "a label ends at a dot");
    }

    #[test]
    fn an_allow_list_admits_only_its_names_and_denial_wins() {
        let config = lists(&["*.example.org", "friend.example"], &["spy.example.org"]);
        assert!(admits(&config, "a.example.org:1"));
        assert!(admits(&config, "FRIEND.example"));
        assert!(!admits(&config, "spy.example.org"));
        assert!(!admits(&config, "example.org"));
        assert!(!admits(&config, "stranger.example"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        FederationConfig::default().validate().unwrap();
        lists(&["*.example.org", "[::1]"], &["a.example"]).validate().unwrap();
        for name in ["", "*.", "a b", "*", "example.org:8448", "*.*.org", "https://example.org"] {
            let error = lists(&[name], &[]).validate().unwrap_err();
            assert!(error.starts_with("allow:"), "{name}: {error}");
            assert!(lists(&[], &[name]).validate().unwrap_err().starts_with("deny:"), "{name}");
        }
        let config = FederationConfig { max_requests: 0, ..FederationConfig::default() };
        assert!(config.validate().unwrap_err().starts_with("max_requests:"));
        let config = FederationConfig { backoff_max_s: 1, ..FederationConfig::default() };
        assert!(config.validate().unwrap_err().starts_with("backoff_max_s:"));
    }
}
