//! The crate's face: the parts, opened in order and stopped in order.

use std::{fmt, sync::Arc};

use hearth_e2ee::E2ee;
use hearth_http::Http;
use hearth_media::Media;
use hearth_rooms::Rooms;
use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity};
use hearth_users::Users;

use crate::{
    FederationConfig, FederationError,
    arrivals::Arrivals,
    check::PduChecker,
    client::Client,
    destinations::Destinations,
    inbound,
    keys::KeyRing,
    outbound::{Outbound, OutboundParts},
    remote::Remote,
    tasks::Tasks,
    transport::Transport,
};

/// What the crate stands on.
pub struct FederationParts {
    /// The store.
    pub store: Store,
    /// This server's name and key.
    pub identity: Arc<ServerIdentity>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Accounts.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Keys and messages to devices.
    pub e2ee: E2ee,
    /// Content.
    pub media: Media,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// The section `[federation]`.
    pub config: FederationConfig,
}

/// The server-server API of one server. Cheap to clone.
#[derive(Clone)]
pub struct Federation(Arc<Inner>);

struct Inner {
    parts: FederationParts,
    client: Client,
    keys: KeyRing,
    checker: PduChecker,
    destinations: Destinations,
    outbound: Outbound,
    turns: inbound::Turns,
    arrivals: Arrivals,
    holes: inbound::Holes,
    tasks: Tasks,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation").finish_non_exhaustive()
    }
}

impl Federation {
    /// Opens the parts. Nothing is sent before [`Self::start`].
    pub async fn open(parts: FederationParts) -> Result<Self, FederationError> {
        let tasks = Tasks::default();
        let destinations = Destinations::open(
            parts.store.clone(),
            parts.identity.server_name(),
            Arc::clone(&parts.clock),
            &parts.config,
        )
        .await?;
        let client = Client::new(
            Arc::clone(&parts.identity),
            Arc::clone(&parts.transport),
            destinations.clone(),
            parts.config.clone(),
        );
        let keys = KeyRing::open(
            parts.store.clone(),
            Arc::clone(&parts.identity),
            Arc::clone(&parts.clock),
            Arc::clone(&parts.transport),
            destinations.clone(),
            parts.config.clone(),
            tasks.clone(),
        )
        .await?;
        let checker = PduChecker::new(keys.clone());
        let outbound = Outbound::open(OutboundParts {
            store: parts.store.clone(),
            identity: Arc::clone(&parts.identity),
            clock: Arc::clone(&parts.clock),
            users: parts.users.clone(),
            rooms: parts.rooms.clone(),
            e2ee: parts.e2ee.clone(),
            client: client.clone(),
            destinations: destinations.clone(),
            config: parts.config.clone(),
        })
        .await?;
        let turns = inbound::Turns::default();
        let holes = inbound::Holes::open(&parts.store).await?;
        Ok(Self(Arc::new(Inner {
            parts,
            client,
            keys,
            checker,
            destinations,
            outbound,
            turns,
            arrivals: Arrivals::default(),
            holes,
            tasks,
        })))
    }

    /// Plugs the way to other servers into the rooms, users, keys and content, and starts sending, and finishing
    /// what a restart interrupted.
    pub fn start(&self) {
        let remote = Remote::new(self.clone());
        self.rooms().set_remote(Arc::new(remote.clone()));
        self.users().set_remote(Arc::new(remote.clone()));
        self.e2ee().set_remote(Arc::new(remote.clone()));
        self.media().set_remote(Arc::new(remote.clone()));
        self.0.outbound.start();
        remote.resume_partial_joins();
        self.spawn(inbound::hand_over_kept(self.clone()));
        self.spawn(inbound::fill_holes(self.clone(), remote));
    }

    /// Does work behind the request that caused it. It is cut off at its next pause when the server
    /// stops: what must not be lost belongs into the store first.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work);
    }

    /// Stops sending and whatever was [spawned](Self::spawn); what is under way is cut off, and sent
    /// again at the next start. Then takes the way to other servers out again, so that nothing holds the
    /// store any more.
    pub async fn close(&self) {
        self.0.tasks.close().await;
        self.0.outbound.close().await;
        self.rooms().unset_remote();
        self.users().unset_remote();
        self.e2ee().unset_remote();
        self.media().unset_remote();
    }

    /// The endpoints, without the outer layers of [`hearth_http::finish`].
    pub fn router(&self, http: Http) -> axum::Router {
        inbound::router(self.clone(), http)
    }

    /// Who fills the gaps of which room.
    pub(crate) fn turns(&self) -> &inbound::Turns {
        &self.0.turns
    }

    /// Rooms that this server is about to be in.
    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.0.arrivals
    }

    /// Events that nobody told so far.
    pub(crate) fn holes(&self) -> &inbound::Holes {
        &self.0.holes
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// This server's name and key.
    #[must_use]
    pub fn identity(&self) -> &Arc<ServerIdentity> {
        &self.0.parts.identity
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.parts.clock
    }

    /// Accounts.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.0.parts.users
    }

    /// Rooms.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.0.parts.rooms
    }

    /// Keys and messages to devices.
    #[must_use]
    pub fn e2ee(&self) -> &E2ee {
        &self.0.parts.e2ee
    }

    /// Content.
    #[must_use]
    pub fn media(&self) -> &Media {
        &self.0.parts.media
    }

    /// The section `[federation]`.
    #[must_use]
    pub fn config(&self) -> &FederationConfig {
        &self.0.parts.config
    }

    /// Signed requests.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Other servers' keys, and our own as served.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// The first three checks on receipt.
    #[must_use]
    pub fn checker(&self) -> &PduChecker {
        &self.0.checker
    }

    /// What is known of other servers' reachability.
    #[must_use]
    pub fn destinations(&self) -> &Destinations {
        &self.0.destinations
    }

    /// What is sent.
    #[must_use]
    pub fn outbound(&self) -> &Outbound {
        &self.0.outbound
    }
}
