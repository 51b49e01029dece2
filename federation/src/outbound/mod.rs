//! What other servers are sent: events and EDUs, by transactions.
//!
//! One task reads the log and routes what concerns other servers to their queues in memory; each
//! destination with something to send has a task of its own, with at most one transaction in flight.
//! A destination's cursor into the log is persisted: what is behind it was delivered, or replaced by its
//! rooms' newest events after a long absence.

use std::{fmt, sync::Arc};

use hearth_rooms::Rooms;
use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity};
use hearth_users::Users;

use crate::{FederationConfig, client::Client, destinations::Destinations};

/// The sender. Cheap to clone.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    store: Store,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    users: Users,
    rooms: Rooms,
    client: Client,
    destinations: Destinations,
    config: FederationConfig,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

impl Outbound {
    /// A sender over these parts; it does nothing before [`Self::start`].
    #[expect(clippy::too_many_arguments, reason = "called once")]
    #[must_use]
    pub fn new(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        users: Users,
        rooms: Rooms,
        client: Client,
        destinations: Destinations,
        config: FederationConfig,
    ) -> Self {
        Self(Arc::new(Inner { store, identity, clock, users, rooms, client, destinations, config }))
    }

    /// Starts the tasks.
    pub fn start(&self) {
        unimplemented!("fed-outbound")
    }

    /// Stops them; waits until they have.
    pub async fn close(&self) {
        unimplemented!("fed-outbound")
    }
}
