//! The section `[media.previews]`.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Of which pages previews are made, and what that may cost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreviewConfig {
    /// Whether previews are made at all.
    pub enabled: bool,
    /// Networks that pages may be in although they are private or loopback.
    pub allow_networks: Vec<IpNet>,
    /// Networks that pages may not be in although they are public.
    pub deny_networks: Vec<IpNet>,
    /// Domains of which previews are made, with what is below them; empty: all.
    pub allow_domains: Vec<String>,
    /// Domains of which no previews are made, nor of what is below them.
    pub deny_domains: Vec<String>,
    /// Ports that are connected to.
    pub ports: Vec<u16>,
    /// Bytes of a page that are read; the rest is left.
    pub max_page_bytes: u64,
    /// Greatest size of a preview's picture, in bytes.
    pub max_image_bytes: u64,
    /// Longest time that fetching a page may take, redirects included, in seconds; its picture may take as long again.
    pub timeout_s: u64,
    /// How long a preview is shown before the page is read again, in seconds.
    pub lifetime_s: u64,
}

impl Default for PreviewConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
            allow_domains: Vec::new(),
            deny_domains: Vec::new(),
            ports: vec![80, 443],
            max_page_bytes: 2 << 20,
            max_image_bytes: 10 << 20,
            timeout_s: 10,
            lifetime_s: 60 * 60,
        }
    }
}

impl PreviewConfig {
    /// Names the first field whose value cannot be used.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let positive = [
            ("max_page_bytes", self.max_page_bytes),
            ("max_image_bytes", self.max_image_bytes),
            ("timeout_s", self.timeout_s),
            ("lifetime_s", self.lifetime_s),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("media.previews.{name}: must be at least 1"));
        }
        let lists = [("allow_domains", &self.allow_domains), ("deny_domains", &self.deny_domains)];
        for (name, domains) in lists {
            if let Some(domain) = domains.iter().find(|domain| !is_domain(domain)) {
                return Err(format!(
                    "media.previews.{name}: {domain:?} is no domain; write it as example.org, without dots around it"
                ));
            }
        }
        if self.ports.is_empty() {
            return Err("media.previews.ports: name at least one port".to_owned());
        }
        Ok(())
    }

    /// [`Self::timeout_s`] as a duration.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

/// A domain as URLs have it: `example.org`, in ASCII and small letters.
fn is_domain(domain: &str) -> bool {
    matches!(url::Host::parse(domain), Ok(url::Host::Domain(parsed)) if parsed == *domain)
        && !domain.starts_with('.')
        && !domain.ends_with('.')
}
