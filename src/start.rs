//! From a configuration to a running server, and back.

use std::{net::SocketAddr, sync::Arc};

use hearth_client_api::ClientApi;
use hearth_http::{Http, HttpConfigError, Shutdown};
use hearth_types::SystemClock;

use crate::{
    Config, ConfigError,
    admin::{AdminSocket, AdminSocketError},
    parts::{OpenError, Parts, StartOptions},
    serve::{self, ListenError, Listeners},
};

impl Default for StartOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), replace_lost_key: false }
    }
}

/// Why the server did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The `[http]` section cannot be used.
    #[error(transparent)]
    Http(#[from] HttpConfigError),
    /// A part cannot be opened or closed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address is taken or not this machine's.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The administration socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminSocketError),
}

/// A server that listens. Stop it with [`RunningServer::shutdown`].
#[derive(Debug)]
pub struct RunningServer {
    listeners: Listeners,
    admin: AdminSocket,
    shutdown: Shutdown,
    parts: Parts,
}

/// Opens the store and serves, as configured. Everything is checked and opened before any address is
/// bound.
pub async fn start(config: Config, options: StartOptions) -> Result<RunningServer, StartError> {
    config.validate()?;
    let shutdown = Shutdown::new();
    let http = Http::new(config.http.clone(), Arc::clone(&options.clock), shutdown.clone())?;
    let parts = Parts::open(&config, &options).await?;
    let (listeners, admin) = match surfaces(&config, &parts, http).await {
        Ok(surfaces) => surfaces,
        Err(error) => {
            parts.close().await?;
            return Err(error);
        }
    };
    tracing::info!(
        server_name = %config.server.name,
        addresses = ?listeners.addresses(),
        "Hearth {} is ready",
        env!("CARGO_PKG_VERSION"),
    );
    Ok(RunningServer { listeners, admin, shutdown, parts })
}

/// Opens what the outside reaches: the addresses, all of them or none, and the administration socket.
async fn surfaces(
    config: &Config,
    parts: &Parts,
    http: Http,
) -> Result<(Listeners, AdminSocket), StartError> {
    let bound = serve::bind(&config.listen).await?;
    let router = router(config, parts, http);
    let admin = AdminSocket::open(&config.admin_socket_path(), parts.clone())?;
    Ok((bound.serve(&config.listen, router), admin))
}

fn router(config: &Config, parts: &Parts, http: Http) -> axum::Router {
    let client_api = ClientApi::new(
        http,
        Arc::clone(&parts.identity),
        Arc::clone(parts.rooms.clock()),
        parts.users.clone(),
        parts.rooms.clone(),
        parts.sync.clone(),
        config.client.clone(),
    );
    hearth_http::finish(hearth_client_api::router(client_api))
}

impl RunningServer {
    /// The addresses that the server listens on, with their real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listeners.addresses()
    }

    /// The first of [`Self::addresses`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        // A configuration without addresses does not pass its checks.
        self.addresses().first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Stops: answers waiting syncs, lets running requests end, writes what is only in memory and
    /// closes the store.
    pub async fn shutdown(self) -> Result<(), StartError> {
        self.shutdown.request();
        // Who types is not stored: the last thing that clients hear of it is that nobody does.
        self.parts.users.stop_all_typing();
        self.parts.sync.close();
        self.listeners.close().await;
        self.admin.close().await;
        self.parts.close().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starts_again_in_the_same_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = folder.path().join("data");
        config.listen.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        for _ in 0..3 {
            let running = start(config.clone(), StartOptions::default()).await.unwrap();
            running.shutdown().await.unwrap();
        }
    }
}
