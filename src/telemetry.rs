//! Log lines: to standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFormat};

/// The engines tell about their own housekeeping, and the authorization rules about every event that passes them; theirs is shown
/// from warnings on, unless asked for.
const QUIET: &str = "fjall=warn,lsm_tree=warn,sled=warn,ruma_state_res=warn";

/// Installs the process's subscriber. `RUST_LOG` wins over the configured level. Does nothing if
/// one is installed already.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},{}", config.level)));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let installed = match config.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber is installed already");
    }
}
