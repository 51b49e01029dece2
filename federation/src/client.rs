//! Requests to other servers: signed, gated by the configuration and by backoff, and read back.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hearth_types::ServerIdentity;
use http::{HeaderMap, Request, Response, StatusCode, header};
use ruma::{
    OwnedEventId, ServerName,
    api::{
        IncomingResponseExt as _, OutgoingRequest, OutgoingRequestExt as _,
        auth_scheme::{AuthScheme, NoAuthentication},
        federation::{
            authentication::{ServerSignatures, XMatrixSigningInput},
            transactions::send_transaction_message::v1::Request as Transaction,
        },
        path_builder::SinglePath,
    },
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use url::Url;

use crate::{
    FederationConfig, RemoteError,
    destinations::{Destinations, Turn},
    transport::{BodyStream, Limits, Transport, TransportError},
};

/// The largest answer to an ordinary request: a hundred of the largest events, and room for the rest.
/// Who asks for whole states sets limits of their own.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// How often a request is repeated because the other server asked to be spared for a moment.
const MAX_PAUSES: usize = 2;
/// The longest such moment that is waited for; beyond it the caller is told.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a request waits for another one to find out whether the server is well again.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// Bytes of an error response that are read, where an answer is otherwise read as it comes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// Bytes of another server's message that are kept.
const MAX_MESSAGE_BYTES: usize = 300;

/// Sends requests to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    identity: Arc<ServerIdentity>,
    transport: Arc<dyn Transport>,
    destinations: Destinations,
    config: FederationConfig,
    /// Places for requests under way.
    places: Semaphore,
}

/// What another server says became of the events of a transaction.
#[derive(Debug, Deserialize)]
pub(crate) struct Fates {
    /// By event ID; events that are not there were taken.
    #[serde(default)]
    pub(crate) pdus: BTreeMap<OwnedEventId, Fate>,
}

/// What another server says became of one event.
#[derive(Debug, Deserialize)]
pub(crate) struct Fate {
    /// Why it was not taken, if it was not.
    pub(crate) error: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that speaks in the name of `identity`.
    #[must_use]
    pub fn new(
        identity: Arc<ServerIdentity>,
        transport: Arc<dyn Transport>,
        destinations: Destinations,
        config: FederationConfig,
    ) -> Self {
        let places = Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner { identity, transport, destinations, config, places }))
    }

    /// The limits of ordinary requests.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { timeout: self.0.config.request_timeout(), max_bytes: ANSWER_BYTES }
    }

    /// Signs and sends a request, and reads the answer. A server that is backing off is not asked; one
    /// that cannot be reached starts to, and one that answers (whatever it says) is well again. A
    /// server that is too busy and says for how long is asked again if that is a moment.
    pub async fn send<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send,
    {
        self.not_itself(destination)?;
        self.send_to_any(destination, request, limits).await
    }

    /// The same for what this server's own name may answer as well: something beside it, such as a policy
    /// server that shares the name.
    pub(crate) async fn send_to_any<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send,
    {
        self.exchange(destination, request, self.signing(destination), limits).await
    }

    /// Offers a transaction and reads what becomes of each event. Not all servers say: an object that
    /// does not is an answer too.
    pub(crate) async fn offer(
        &self,
        destination: &ServerName,
        transaction: Transaction,
        limits: Limits,
    ) -> Result<Fates, RemoteError> {
        self.not_itself(destination)?;
        let signing = self.signing(destination);
        let response = self.answer(destination, transaction, signing, limits).await?;
        serde_json::from_slice(response.body()).map_err(|error| RemoteError::BadAnswer {
            server: destination.to_owned(),
            reason: error.to_string(),
        })
    }

    fn signing(&self, destination: &ServerName) -> XMatrixSigningInput<'_> {
        let identity = &self.0.identity;
        XMatrixSigningInput::new(
            identity.server_name().to_owned(),
            destination.to_owned(),
            identity.key_pair(),
        )
    }

    /// The same for endpoints that need no signature (keys, version).
    pub async fn send_unsigned<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication = NoAuthentication, PathBuilder = SinglePath> + Send,
    {
        self.not_itself(destination)?;
        self.exchange(destination, request, (), limits).await
    }

    async fn exchange<R>(
        &self,
        destination: &ServerName,
        request: R,
        authentication: <R::Authentication as AuthScheme>::Input<'_>,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let answer = self.answer(destination, request, authentication, limits).await?;
        let (head, body) = answer.into_parts();
        R::IncomingResponse::try_from_http_response(Response::from_parts(head, &body)).map_err(
            |error| RemoteError::BadAnswer {
                server: destination.to_owned(),
                reason: error.to_string(),
            },
        )
    }

    /// A successful answer as it came.
    async fn answer<R>(
        &self,
        destination: &ServerName,
        request: R,
        authentication: <R::Authentication as AuthScheme>::Input<'_>,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let _turn = self.turn(destination, limits).await?;
        let request = written(destination, request, authentication)?;
        self.deliver(destination, request, limits).await
    }

    /// Signs and sends a request for content, and leaves the body of its answer to be read as it comes.
    ///
    /// Content is often served by something else than the rest, behind the same name. So what becomes of it tells
    /// little of the server's health: a failure counts only if there was no connection, an answer only makes the server
    /// worth a try, and a server that is due after a failure is left to those who find out how it is. One that is backing
    /// off is not asked.
    pub(crate) async fn open<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Response<BodyStream>, RemoteError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send,
    {
        let request = written(destination, request, self.signing(destination))?;
        self.open_written(destination, request, limits).await
    }

    /// The same for a request that is written already, and needs no signature.
    pub(crate) async fn open_written(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<BodyStream>, RemoteError> {
        self.not_itself(destination)?;
        self.admitted(destination)?;
        let destinations = &self.0.destinations;
        if let Some(retry_in_ms) = destinations.due_in(destination) {
            return Err(RemoteError::BackingOff { server: destination.to_owned(), retry_in_ms });
        }
        let place = self.place(destination, limits).await?;
        let opened = self.0.transport.open(destination, request, limits).await;
        drop(place);
        let response = opened.inspect_err(|error| {
            if error.is_without_connection() {
                destinations.failed(destination, &error.to_string());
            }
        })?;
        if response.status().is_success() {
            destinations.heard_from(destination);
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let refused = present(destination, Response::from_parts(head, beginning(body).await?))?;
        destinations.heard_from(destination);
        Err(refusal(destination, &refused))
    }

    /// Reads what another server keeps elsewhere on the web, and names.
    pub(crate) async fn fetch(
        &self,
        server: &ServerName,
        url: &Url,
        limits: Limits,
    ) -> Result<Response<BodyStream>, RemoteError> {
        let _place = self.place(server, limits).await?;
        Ok(self.0.transport.fetch(server, url, limits).await?)
    }

    /// Nobody serves itself over the network: to ask is some caller's mistake, and may be a stranger's
    /// trick.
    fn not_itself(&self, destination: &ServerName) -> Result<(), RemoteError> {
        if destination != self.0.identity.server_name() {
            return Ok(());
        }
        let reason = "it is this server itself".to_owned();
        Err(TransportError::NotFound { server: destination.to_owned(), reason }.into())
    }

    /// The right to ask this server now.
    async fn turn(&self, destination: &ServerName, limits: Limits) -> Result<Turn, RemoteError> {
        self.admitted(destination)?;
        let turn = self.0.destinations.turn(destination, limits.timeout.min(MAX_WAIT)).await;
        let server = || destination.to_owned();
        turn.map_err(|retry_in_ms| RemoteError::BackingOff { server: server(), retry_in_ms })
    }

    /// May this server be spoken to at all?
    fn admitted(&self, destination: &ServerName) -> Result<(), RemoteError> {
        let admits = self.0.config.admits(destination);
        if admits { Ok(()) } else { Err(RemoteError::NotAllowed(destination.to_owned())) }
    }

    /// Sends, waits out short pauses that the server asks for, and tells what its answer says of its health.
    async fn deliver(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError> {
        for _ in 0..MAX_PAUSES {
            let response = self.attempt(destination, request.clone(), limits).await?;
            match pause(&response) {
                Some(pause) if pause <= MAX_PAUSE => sleep(pause).await,
                _ => return understood(destination, response),
            }
        }
        let response = self.attempt(destination, request, limits).await?;
        understood(destination, response)
    }

    /// One attempt, and what it says of the server's health.
    async fn attempt(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError> {
        let place = self.place(destination, limits).await?;
        let sent = self.0.transport.send(destination, request, limits).await;
        drop(place);
        self.judged(destination, sent)
    }

    /// A place among the requests under way. That there is none in time is not the other server's fault, so it does
    /// not count as its failure.
    async fn place(
        &self,
        destination: &ServerName,
        limits: Limits,
    ) -> Result<Option<SemaphorePermit<'_>>, RemoteError> {
        let timed_out = |_| TransportError::TimedOut(destination.to_owned());
        Ok(timeout(limits.timeout, self.0.places.acquire()).await.map_err(timed_out)?.ok())
    }

    /// What became of a request, after noting what it says of the server's health.
    fn judged(
        &self,
        destination: &ServerName,
        sent: Result<Response<Bytes>, TransportError>,
    ) -> Result<Response<Bytes>, RemoteError> {
        let answered = sent.and_then(|response| present(destination, response));
        match &answered {
            // It was reached, and spoke.
            Ok(_) | Err(TransportError::TooLarge(_)) => self.0.destinations.succeeded(destination),
            Err(error) => self.0.destinations.failed(destination, &error.to_string()),
        }
        Ok(answered?)
    }
}

/// The request as HTTP, signed if its endpoint wants that. The transport knows the authority.
fn written<R>(
    destination: &ServerName,
    request: R,
    authentication: <R::Authentication as AuthScheme>::Input<'_>,
) -> Result<Request<Bytes>, RemoteError>
where
    R: OutgoingRequest<PathBuilder = SinglePath>,
{
    let request = request.try_into_http_request::<BytesMut>("", authentication, ());
    request.map(|request| request.map(BytesMut::freeze)).map_err(|error| RemoteError::BadAnswer {
        server: destination.to_owned(),
        reason: format!("the request cannot be written: {error}"),
    })
}

/// As much of a body as an error response has.
async fn beginning(mut body: BodyStream) -> Result<Bytes, TransportError> {
    let mut beginning = BytesMut::new();
    while let Some(chunk) = body.next().await {
        beginning.extend_from_slice(&chunk?);
        if beginning.len() > MAX_REFUSAL_BYTES {
            break;
        }
    }
    Ok(beginning.freeze())
}

/// The answer, unless it is a proxy's, because the server behind it does not answer.
fn present(
    destination: &ServerName,
    response: Response<Bytes>,
) -> Result<Response<Bytes>, TransportError> {
    let gateway = matches!(
        response.status(),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    if !gateway || errcode(parsed(response.body()).as_ref()).is_some() {
        return Ok(response);
    }
    let reason = format!("something in front of it answered {}", response.status());
    Err(TransportError::Unreachable { server: destination.to_owned(), reason })
}

/// The answer, if it is a success; else the error that it names.
fn understood(
    destination: &ServerName,
    response: Response<Bytes>,
) -> Result<Response<Bytes>, RemoteError> {
    if response.status().is_success() { Ok(response) } else { Err(refusal(destination, &response)) }
}

/// The error that an answer names.
fn refusal(destination: &ServerName, response: &Response<Bytes>) -> RemoteError {
    let retry_after = retry_after(response);
    let body = parsed(response.body());
    let text = |field: &str| body.as_ref()?.get(field)?.as_str();
    RemoteError::Matrix {
        server: destination.to_owned(),
        status: response.status(),
        errcode: errcode(body.as_ref()).unwrap_or_default().to_owned(),
        message: shortened(text("error").unwrap_or_default()).to_owned(),
        body: body.map(Box::new),
        retry_after,
    }
}

fn parsed(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

fn errcode(body: Option<&Value>) -> Option<&str> {
    body?.get("errcode")?.as_str()
}

fn shortened(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MAX_MESSAGE_BYTES)).unwrap_or_default()
}

/// How long the server asks to be spared, if that is why it refused (SS "429").
fn pause(response: &Response<Bytes>) -> Option<Duration> {
    (response.status() == StatusCode::TOO_MANY_REQUESTS).then(|| retry_after(response)).flatten()
}

/// How long the server asks to be spared.
fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let in_head = |headers: &HeaderMap| {
        headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().map(Duration::from_secs).ok()
    };
    let in_body =
        |body: &[u8]| Some(Duration::from_millis(parsed(body)?.get("retry_after_ms")?.as_u64()?));
    in_head(response.headers()).or_else(|| in_body(response.body()))
}

#[cfg(test)]
mod tests;
