//! The real server, in this process.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use hearth::{Config, RunningServer, StartOptions};
use hearth_federation::transport::Transport;
use hearth_types::{Clock, SystemClock};
use ruma::{OwnedServerName, ServerName};
use tempfile::TempDir;

use crate::{Client, Network, TestUser};

/// A running server with its own data folder, which is deleted when this is dropped.
///
/// Registration is open, rate limits are off, the server's name is `localhost`, it does not federate, the
/// engine is the default one; [`TestServer::builder`] changes that.
#[derive(Debug)]
pub struct TestServer {
    running: Option<RunningServer>,
    address: SocketAddr,
    client: Client,
    config: Config,
    clock: Arc<dyn Clock>,
    network: Option<Network>,
    folder: TempDir,
}

/// What to change about a test server before it starts.
#[derive(Debug)]
pub struct TestServerBuilder {
    config: Config,
    clock: Arc<dyn Clock>,
    network: Option<Network>,
}

impl TestServerBuilder {
    /// Changes the configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Runs the server on this clock, such as a [`hearth_types::ManualClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Has the server federate under this name, with the others of this network. What failed is tried
    /// again after a second.
    #[must_use]
    pub fn federating(mut self, name: &str, network: &Network) -> Self {
        let name = OwnedServerName::try_from(name).expect("a server name");
        self.config.server.name = name;
        self.config.federation.enabled = true;
        self.config.federation.backoff_min_s = 1;
        self.network = Some(network.clone());
        self
    }

    /// Starts the server.
    pub async fn start(self) -> TestServer {
        let folder = temporary_folder().expect("a temporary folder");
        let mut config = self.config;
        folder.path().join("data").clone_into(&mut config.server.data_dir);
        let running = start(&config, &self.clock, self.network.as_ref()).await;
        let address = running.address();
        // A restart takes the same port again, so that clients and users stay usable.
        config.listen.addresses = vec![address];
        TestServer {
            running: Some(running),
            address,
            client: Client::new(&format!("http://{address}")),
            config,
            clock: self.clock,
            network: self.network,
            folder,
        }
    }
}

async fn start(
    config: &Config,
    clock: &Arc<dyn Clock>,
    network: Option<&Network>,
) -> RunningServer {
    let name = &config.server.name;
    let transport: Option<Arc<dyn Transport>> = network.map(|network| network.transport(name));
    let options = StartOptions { clock: Arc::clone(clock), transport, ..StartOptions::default() };
    let running = hearth::start(config.clone(), options).await.expect("the server starts");
    if let Some(network) = network {
        network.attach(name, running.router());
    }
    running
}

impl TestServer {
    /// Starts a server with the defaults for tests.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The defaults for tests, to be changed.
    #[must_use]
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder { config: test_config(), clock: Arc::new(SystemClock), network: None }
    }

    /// Stops the server as an operator would, and starts it again on the same data and port.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.running = Some(start(&self.config, &self.clock, self.network.as_ref()).await);
    }

    /// Stops the server; [`TestServer::restart`] brings it back.
    pub async fn stop(&mut self) {
        if let Some(network) = &self.network {
            network.detach(self.name());
        }
        if let Some(running) = self.running.take() {
            running.shutdown().await.expect("the server shuts down cleanly");
        }
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.config.server.name
    }

    /// The address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder that the server keeps its data in.
    #[must_use]
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// The server's endpoints without a network: a request's answer is there before anybody has taken its
    /// body. To be dropped before the server stops.
    pub fn router(&self) -> Router {
        self.running.as_ref().expect("a server that runs").router()
    }

    /// A client without an access token.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Registers a user, who is logged in then.
    pub async fn register(&self, localpart: &str) -> TestUser {
        TestUser::register(&self.client, localpart).await
    }

    /// Logs a registered user in on one more device.
    pub async fn login(&self, localpart: &str) -> TestUser {
        TestUser::login(&self.client, localpart).await
    }
}

/// A folder in memory where the system has one: making a store syncs hundreds of files, which takes
/// seconds on a busy disk. That what is acknowledged is on the disk is for the crash tests to show.
fn temporary_folder() -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("hearth-test-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())
}

fn test_config() -> Config {
    let mut config = Config::default();
    config.listen.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    config.http.rate_limits.enabled = false;
    config.federation.enabled = false;
    config.users.open_registration = true;
    // The least that argon2 takes: tests register many users.
    config.users.argon2.memory_kib = 8;
    config.users.argon2.iterations = 1;
    config
}
