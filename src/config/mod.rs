//! The configuration: sections that the crates declare, put together, read, checked and described.
//!
//! The settings are the fields of [`Config`]; their documentation is one table, [`fields::SECTIONS`],
//! from which the example file and the reference page are rendered. Tests compare the two, so that
//! neither can have a setting which the other lacks.

mod error;
pub mod fields;
mod load;
mod nearest;
pub mod render;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hearth_client_api::ClientConfig;
use hearth_delayed::DelayedConfig;
use hearth_e2ee::E2eeConfig;
use hearth_federation::FederationConfig;
use hearth_http::HttpConfig;
use hearth_media::MediaConfig;
use hearth_push::PushConfig;
use hearth_rooms::RoomsConfig;
use hearth_storage::EngineKind;
use hearth_sync::SyncConfig;
use hearth_users::UsersConfig;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use self::{error::ConfigError, load::load};

/// Everything that an operator can set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this server is.
    pub server: ServerConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// What clients are told.
    pub client: ClientConfig,
    /// How requests are bounded.
    pub http: HttpConfig,
    /// Accounts, registration, sessions, presence.
    pub users: UsersConfig,
    /// How rooms are made and kept.
    pub rooms: RoomsConfig,
    /// Events that are sent later.
    pub delayed_events: DelayedConfig,
    /// Keys of encrypting clients and messages to their devices.
    pub e2ee: E2eeConfig,
    /// What users may upload.
    pub media: MediaConfig,
    /// How push gateways are spoken to.
    pub push: PushConfig,
    /// How clients are told what changed.
    pub sync: SyncConfig,
    /// How it speaks with other servers.
    pub federation: FederationConfig,
    /// How rows are kept.
    pub store: StoreConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// `[server]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The name that ends user IDs.
    pub name: OwnedServerName,
    /// The folder of the store, the signing key and the administration socket.
    pub data_dir: PathBuf,
}

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// Addresses and ports for plain HTTP.
    pub addresses: Vec<SocketAddr>,
    /// Addresses and ports for HTTPS.
    pub tls_addresses: Vec<SocketAddr>,
    /// The file with the certificate and what it stands on, in PEM.
    pub tls_certificate: Option<PathBuf>,
    /// The file with the certificate's key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// Open connections at a time, over all addresses.
    pub max_connections: u32,
    /// Seconds that a client may take to send a request's head, and keep an unused connection.
    pub header_timeout_s: u64,
    /// Seconds that running requests may take to end when the server stops.
    pub shutdown_timeout_s: u64,
}

/// `[store]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Which engine keeps the rows.
    pub engine: EngineKind,
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or directives per module.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { name: ruma::owned_server_name!("localhost"), data_dir: "data".into() }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8008))],
            tls_addresses: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            max_connections: 20_000,
            header_timeout_s: 60,
            shutdown_timeout_s: 10,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl ListenConfig {
    /// [`Self::header_timeout_s`] as a duration.
    #[must_use]
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    /// [`Self::shutdown_timeout_s`] as a duration.
    #[must_use]
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout_s)
    }
}

impl Config {
    /// Checks what the types of the fields cannot: every complaint names its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.listen.validate()?;
        let in_client = |reason| ConfigError::Invalid(format!("client.{reason}"));
        self.client.validate().map_err(in_client)?;
        self.http.validate().map_err(|error| ConfigError::Invalid(error.to_string()))?;
        self.users.validate().map_err(|error| ConfigError::Invalid(error.to_string()))?;
        let in_rooms = |reason| ConfigError::Invalid(format!("rooms.{reason}"));
        self.rooms.validate().map_err(in_rooms)?;
        self.delayed_events.validate().map_err(ConfigError::Invalid)?;
        self.e2ee.validate().map_err(ConfigError::Invalid)?;
        self.media.validate().map_err(ConfigError::Invalid)?;
        self.push.validate().map_err(ConfigError::Invalid)?;
        let in_sync = |reason| ConfigError::Invalid(format!("sync.{reason}"));
        self.sync.validate().map_err(in_sync)?;
        let in_federation = |reason| ConfigError::Invalid(format!("federation.{reason}"));
        self.federation.validate().map_err(in_federation)?;
        self.log.validate()
    }
}

impl ListenConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.addresses.is_empty() && self.tls_addresses.is_empty() {
            return Err(ConfigError::invalid("listen.addresses", "name at least one address"));
        }
        for (key, path) in
            [("listen.tls_certificate", &self.tls_certificate), ("listen.tls_key", &self.tls_key)]
        {
            if path.is_none() && !self.tls_addresses.is_empty() {
                return Err(ConfigError::invalid(key, "listen.tls_addresses needs this file"));
            }
        }
        if self.max_connections == 0 {
            return Err(ConfigError::invalid("listen.max_connections", "must be at least 1"));
        }
        if self.header_timeout_s == 0 {
            return Err(ConfigError::invalid("listen.header_timeout_s", "must be at least 1"));
        }
        Ok(())
    }
}

impl LogConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |reason: &str| Err(ConfigError::invalid("log.level", reason));
        // A word that is no level would be taken for the name of a module, and silence the rest.
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        if !self.level.split(',').any(|part| is_level(part.trim())) {
            return invalid("one part must be error, warn, info, debug, trace or off");
        }
        let unclear = |part: &str| !part.contains('=') && !is_level(part.trim());
        if self.level.split(',').any(unclear) {
            return invalid("every other part must be MODULE=LEVEL");
        }
        match EnvFilter::builder().parse(&self.level) {
            Ok(_) => Ok(()),
            Err(error) => invalid(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
