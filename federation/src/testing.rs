//! Servers in one process, joined by a network that is a table of their routers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_http::{Http, HttpConfig, Shutdown};
use hearth_media::{Blobs, Media, MediaConfig, MediaParts};
pub(crate) use hearth_testbed::START_MS;
use hearth_testbed::Services;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::{
    Federation, FederationConfig, FederationParts,
    transport::{Limits, Transport, TransportError},
};

/// Servers by name. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Inner>);

#[derive(Default)]
struct Inner {
    routers: Mutex<HashMap<OwnedServerName, Router>>,
    refused: Mutex<Vec<&'static str>>,
    held: watch::Sender<Option<&'static str>>,
    requests: AtomicUsize,
}

impl Network {
    /// Takes a server off the network.
    pub(crate) fn remove(&self, server: &ServerName) {
        self.0.routers.lock().remove(server);
    }

    /// Puts a server onto the network that never answers.
    pub(crate) fn silence(&self, server: &str) {
        let silent = Router::new().fallback(std::future::pending::<StatusCode>);
        self.put(server, silent);
    }

    /// Puts a server onto the network, in the place of the one that has its name.
    pub(crate) fn put(&self, server: &str, router: Router) {
        self.0.routers.lock().insert(OwnedServerName::try_from(server).unwrap(), router);
    }

    /// Requests whose path has this part are answered with 404 from now on.
    pub(crate) fn refuse(&self, part: &'static str) {
        self.0.refused.lock().push(part);
    }

    /// Everything is answered again.
    pub(crate) fn refuse_nothing(&self) {
        self.0.refused.lock().clear();
    }

    /// Requests whose path has this part are on their way until [`Self::let_go`].
    pub(crate) fn hold(&self, part: &'static str) {
        self.0.held.send_replace(Some(part));
    }

    /// Everything arrives again.
    pub(crate) fn let_go(&self) {
        self.0.held.send_replace(None);
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Transport for Network {
    async fn send(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { server: destination.to_owned(), reason };
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path();
        let mut on_hold = self.0.held.subscribe();
        drop(on_hold.wait_for(|part| part.is_none_or(|part| !path.contains(part))).await);
        if self.0.refused.lock().iter().any(|part| request.uri().path().contains(part)) {
            let mut response = Response::new(Bytes::from_static(b"{}"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        let router = self.0.routers.lock().get(destination).cloned();
        let router = router.ok_or_else(|| unreachable("nobody is there".to_owned()))?;
        let Ok(response) = router.oneshot(request.map(Body::from)).await;
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await;
        Ok(Response::from_parts(head, body.map_err(|error| unreachable(error.to_string()))?))
    }
}

/// A server with everything in memory.
pub(crate) struct Server {
    pub(crate) federation: Federation,
    pub(crate) http: Http,
}

impl Server {
    pub(crate) async fn open(name: &str, network: &Network) -> Self {
        Self::open_with(name, network, |_| ()).await
    }

    /// A server, put onto the network.
    pub(crate) async fn open_with(
        name: &str,
        network: &Network,
        configure: impl FnOnce(&mut FederationConfig),
    ) -> Self {
        let name = OwnedServerName::try_from(name).unwrap();
        let others = [hearth_media::KEYSPACES, crate::KEYSPACES].concat();
        let Services { store, identity, clock, users, rooms, e2ee } =
            Services::in_memory(&name, &others).await;
        let media = Media::open(MediaParts {
            store: store.clone(),
            blobs: Blobs::in_memory(),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&clock),
            config: MediaConfig::default(),
        });
        let mut config = FederationConfig::default();
        configure(&mut config);
        let parts = FederationParts {
            store,
            identity,
            clock: Arc::clone(&clock),
            users,
            rooms,
            e2ee,
            media,
            transport: Arc::new(network.clone()),
            config,
        };
        let federation = Federation::open(parts).await.unwrap();
        let http = Http::new(HttpConfig::default(), clock, Shutdown::new()).unwrap();
        let router = hearth_http::finish(federation.router(http.clone()));
        network.0.routers.lock().insert(name, router);
        Self { federation, http }
    }
}
