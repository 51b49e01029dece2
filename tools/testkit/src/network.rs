//! A network in memory: servers in this process that federate without sockets, and the faults of
//! networks on demand.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, extract::ConnectInfo};
use bytes::Bytes;
use hearth_federation::transport::{Limits, Transport, TransportError};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

/// Where requests of other servers seem to come from.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A request on its way from one server to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Who sends it.
    pub from: OwnedServerName,
    /// Who is to get it.
    pub to: OwnedServerName,
    /// The method.
    pub method: http::Method,
    /// Path and query.
    pub path: String,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and so does its answer.
    #[default]
    Arrives,
    /// It arrives after this time.
    Late(Duration),
    /// It arrives at once; its answer takes this time.
    AnswerLate(Duration),
    /// It never arrives: the sender is told that nobody is there.
    Lost,
    /// It arrives, but its answer does not.
    AnswerLost,
    /// It arrives twice: the sender gets the second answer.
    Twice,
    /// It never arrives, and nothing comes back: the sender waits until its time is over.
    Silence,
}

type Judge = dyn Fn(&Passage) -> Fate + Send + Sync;

/// Connects servers by their names. Clones share the network.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    servers: HashMap<OwnedServerName, Router>,
    /// Pairs of servers that do not reach each other, both ways round.
    cuts: HashSet<(OwnedServerName, OwnedServerName)>,
    judge: Option<Arc<Judge>>,
    passages: Vec<Passage>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Network")
            .field("servers", &state.servers.keys())
            .field("cuts", &state.cuts)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// A network without servers or faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The way of the server of this name to the others.
    #[must_use]
    pub fn transport(&self, from: &ServerName) -> Arc<dyn Transport> {
        Arc::new(Wire { network: self.clone(), from: from.to_owned() })
    }

    /// From now on, requests to this name go to this service.
    pub fn attach(&self, name: &ServerName, router: Router) {
        self.0.lock().servers.insert(name.to_owned(), router);
    }

    /// From now on, requests to this name go to this service first: what it has no route for goes to the
    /// one that was there.
    pub fn put_before(&self, name: &ServerName, router: Router) {
        let mut state = self.0.lock();
        let behind = state.servers.remove(name).unwrap_or_default();
        state.servers.insert(name.to_owned(), router.fallback_service(behind));
    }

    /// From now on, nobody answers under this name. Do it before the server stops: the service holds
    /// its parts.
    pub fn detach(&self, name: &ServerName) {
        let router = self.0.lock().servers.remove(name);
        drop(router);
    }

    /// These two do not reach each other any more.
    pub fn cut(&self, one: &ServerName, other: &ServerName) {
        let mut state = self.0.lock();
        state.cuts.insert((one.to_owned(), other.to_owned()));
        state.cuts.insert((other.to_owned(), one.to_owned()));
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) {
        self.0.lock().cuts.clear();
    }

    /// Has this function decide what becomes of each request that is not cut off.
    pub fn judge(&self, judge: impl Fn(&Passage) -> Fate + Send + Sync + 'static) {
        self.0.lock().judge = Some(Arc::new(judge));
    }

    /// Every request sent since the last call, lost ones too.
    #[must_use]
    pub fn take_passages(&self) -> Vec<Passage> {
        std::mem::take(&mut self.0.lock().passages)
    }

    /// What becomes of a request, and who gets it.
    fn route(&self, passage: &Passage) -> (Fate, Option<Router>) {
        let mut state = self.0.lock();
        let pair = (passage.from.clone(), passage.to.clone());
        let judge = state.judge.clone();
        let router = state.servers.get(&passage.to).cloned();
        let is_cut = state.cuts.contains(&pair);
        state.passages.push(passage.clone());
        drop(state);
        if is_cut {
            return (Fate::Lost, router);
        }
        (judge.map_or(Fate::Arrives, |judge| judge(passage)), router)
    }
}

/// One server's way to the others.
struct Wire {
    network: Network,
    from: OwnedServerName,
}

#[async_trait]
impl Transport for Wire {
    async fn send(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        let carried = self.carry(destination, request, limits.max_bytes);
        timeout(limits.timeout, carried)
            .await
            .unwrap_or_else(|_| Err(TransportError::TimedOut(destination.to_owned())))
    }
}

impl Wire {
    async fn carry(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, TransportError> {
        let passage = Passage {
            from: self.from.clone(),
            to: destination.to_owned(),
            method: request.method().clone(),
            path: request.uri().to_string(),
        };
        let unreachable = |reason: &str| TransportError::Unreachable {
            server: destination.to_owned(),
            reason: reason.to_owned(),
        };
        let (fate, router) = self.network.route(&passage);
        match fate {
            Fate::Lost => return Err(unreachable("the network lost the request")),
            Fate::Silence => std::future::pending::<()>().await,
            Fate::Late(delay) => sleep(delay).await,
            Fate::Arrives | Fate::AnswerLate(_) | Fate::AnswerLost | Fate::Twice => {}
        }
        let router = router.ok_or_else(|| unreachable("nobody answers under this name"))?;
        if fate == Fate::Twice {
            drop(call(router.clone(), destination, request.clone(), max_bytes).await);
        }
        let answer = call(router, destination, request, max_bytes).await?;
        if let Fate::AnswerLate(delay) = fate {
            sleep(delay).await;
        }
        if fate == Fate::AnswerLost {
            return Err(unreachable("the network lost the answer"));
        }
        Ok(answer)
    }
}

/// Hands a request to a service as its listener would.
async fn call(
    router: Router,
    destination: &ServerName,
    request: Request<Bytes>,
    max_bytes: usize,
) -> Result<Response<Bytes>, TransportError> {
    let mut request = request.map(Body::from);
    request.extensions_mut().insert(ConnectInfo(PEER));
    let host = HeaderValue::from_str(destination.as_str()).expect("server names are plain");
    request.headers_mut().insert(header::HOST, host);
    let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = answer.into_parts();
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(TransportError::TooLarge(destination.to_owned()))
        }
        Err(error) => Err(TransportError::Unreachable {
            server: destination.to_owned(),
            reason: error.to_string(),
        }),
    }
}
