//! A small API: real endpoint types, made-up users.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request},
    response::Response,
    routing::post,
};
use bytes::Bytes;
use hearth_http::{
    ApiState, Authenticate, Caller, Class, Endpoints, Http, HttpConfig, Json, MatrixError, Policy,
    RawJson, Ruma, Scheme, Session, Shutdown, TokenError, finish,
};
use hearth_types::ManualClock;
use http::{HeaderMap, StatusCode, request::Parts};
use ruma::{
    OwnedUserId, RoomId, TransactionId, UserId,
    api::client::{
        account::{change_password, whoami},
        alias::get_alias,
        discovery::get_supported_versions,
        media::create_content,
        membership::{join_room_by_id, join_room_by_id_or_alias},
        message::send_message_event,
        push::get_pushrules_all,
        room::create_room,
        session::{login, logout},
        state::{get_state_event_for_key, send_state_event},
        sync::sync_events,
        uiaa::{AuthFlow, AuthType, UiaaInfo},
    },
    api::federation::{authentication::ServerSignatures, transactions::send_transaction_message},
    owned_room_id,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tower::ServiceExt as _;

#[derive(Clone)]
pub(crate) struct App {
    http: Http,
}

/// Who the fake tokens stand for.
#[derive(Clone, Debug)]
pub(crate) struct LocalUser {
    user_id: OwnedUserId,
    is_locked: bool,
    is_unlimited: bool,
}

impl Session for LocalUser {
    fn user_id(&self) -> &UserId {
        &self.user_id
    }

    fn is_locked(&self) -> bool {
        self.is_locked
    }

    fn is_unlimited(&self) -> bool {
        self.is_unlimited
    }
}

impl ApiState for App {
    fn http(&self) -> &Http {
        &self.http
    }
}

impl Authenticate for App {
    type Session = LocalUser;

    async fn authenticate(
        &self,
        token: &str,
        _address: Option<std::net::IpAddr>,
    ) -> Result<LocalUser, TokenError> {
        let Some(name) = token.strip_prefix("token_of_") else {
            return Err(match token {
                "expired" => TokenError::Expired,
                "broken" => TokenError::Other(MatrixError::internal(&"the store is on fire")),
                _ => TokenError::Unknown,
            });
        };
        Ok(LocalUser {
            user_id: UserId::parse(format!("@{name}:example.org"))
                .map_err(|_| TokenError::Unknown)?,
            is_locked: name == "locked",
            is_unlimited: name == "free",
        })
    }
}

type Reply<T> = Result<T, MatrixError>;

async fn whoami(
    _: App,
    request: Ruma<whoami::v3::Request, LocalUser>,
) -> Reply<whoami::v3::Response> {
    assert_ne!(request.identity.user_id.localpart(), "panic", "secret_of_the_panic");
    Ok(whoami::v3::Response::new(request.identity.user_id, false))
}

/// Answers with what arrived, so that tests can look at it.
async fn send(_: App, request: Ruma<send_message_event::v3::Request, LocalUser>) -> Reply<RawJson> {
    // No `json!`: it reads the content into a tree, which not every content fits into.
    let echo = Echo {
        room_id: &request.room_id,
        txn_id: &request.txn_id,
        sender: &request.identity.user_id,
        content: request.body.body.json(),
    };
    Ok(serde_json::to_vec(&echo).unwrap().into())
}

#[derive(Serialize)]
struct Echo<'a> {
    room_id: &'a RoomId,
    txn_id: &'a TransactionId,
    sender: &'a UserId,
    content: &'a RawValue,
}

async fn send_state(
    _: App,
    request: Ruma<send_state_event::v3::Request, LocalUser>,
) -> Reply<RawJson> {
    let body = json!({ "type": request.event_type, "state_key": request.state_key });
    Ok(RawJson(body.to_string().into()))
}

async fn get_state(
    _: App,
    request: Ruma<get_state_event_for_key::v3::Request, LocalUser>,
) -> Reply<RawJson> {
    let body = json!({ "type": request.event_type, "state_key": request.state_key });
    Ok(RawJson(body.to_string().into()))
}

async fn join(
    _: App,
    _: Ruma<join_room_by_id_or_alias::v3::Request, LocalUser>,
) -> Reply<join_room_by_id_or_alias::v3::Response> {
    Ok(join_room_by_id_or_alias::v3::Response::new(owned_room_id!("!a:example.org")))
}

async fn join_by_id(
    _: App,
    request: Ruma<join_room_by_id::v3::Request, LocalUser>,
) -> Reply<join_room_by_id::v3::Response> {
    Ok(join_room_by_id::v3::Response::new(request.body.room_id))
}

async fn create(
    _: App,
    request: Ruma<create_room::v3::Request, LocalUser>,
) -> Reply<create_room::v3::Response> {
    assert!(!request.json.is_empty());
    Ok(create_room::v3::Response::new(owned_room_id!("!new:example.org")))
}

async fn log_out(_: App, _: Ruma<logout::v3::Request, LocalUser>) -> Reply<logout::v3::Response> {
    Ok(logout::v3::Response::new())
}

async fn log_in(_: App, request: Ruma<login::v3::Request>) -> Reply<login::v3::Response> {
    _ = &request.login_info;
    Err(MatrixError::forbidden("Wrong user name or password"))
}

async fn alias(_: App, request: Ruma<get_alias::v3::Request>) -> Reply<RawJson> {
    Ok(json!({ "alias": request.room_alias }).to_string().into_bytes().into())
}

async fn versions(
    _: App,
    request: Ruma<get_supported_versions::Request, Option<LocalUser>>,
) -> Reply<RawJson> {
    let user_id = request.identity.as_ref().map(|user| &user.user_id);
    Ok(json!({ "versions": [], "user_id": user_id }).to_string().into_bytes().into())
}

async fn password(
    _: App,
    request: Ruma<change_password::v3::Request, Option<LocalUser>>,
) -> Reply<change_password::v3::Response> {
    if request.auth.is_some() {
        return Ok(change_password::v3::Response::new());
    }
    let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![AuthType::Password])]);
    info.session = Some("abc".to_owned());
    Err(info.into())
}

async fn upload(
    _: App,
    request: Ruma<create_content::v3::Request, LocalUser>,
) -> Reply<create_content::v3::Response> {
    let uri = format!("mxc://example.org/{}", request.file.len());
    Ok(create_content::v3::Response::new(uri.into()))
}

async fn push_rules(_: App, _: Ruma<get_pushrules_all::v3::Request, LocalUser>) -> Reply<RawJson> {
    Ok(RawJson(Bytes::from_static(b"{}")))
}

/// A scheme whose proof is over the body: it tells how long the body is.
impl Scheme<App> for ServerSignatures {
    type Identity = usize;

    async fn identify(_: &App, head: &Parts, _: &Policy) -> Reply<usize> {
        let length = head.headers.get("x-length").and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse().ok());
        length.ok_or_else(|| MatrixError::forbidden("no proof"))
    }

    async fn verify(_: &App, length: &usize, _: &Parts, body: &Bytes) -> Reply<()> {
        if body.len() == *length { Ok(()) } else { Err(MatrixError::forbidden("wrong proof")) }
    }
}

async fn transaction(
    _: App,
    request: Ruma<send_transaction_message::v1::Request, usize>,
) -> Reply<RawJson> {
    let body = json!({ "proven": request.identity, "json": request.json.len() });
    Ok(RawJson(body.to_string().into()))
}

/// Waits until the server stops.
async fn sync(app: App, _: Ruma<sync_events::v3::Request, LocalUser>) -> Reply<RawJson> {
    app.http().shutdown().requested().await;
    Ok(RawJson(Bytes::from_static(br#"{"next_batch":"s1"}"#)))
}

/// A route that ruma does not know.
async fn echo_name(
    caller: Caller<LocalUser>,
    Json(body): Json<Named>,
) -> Result<RawJson, MatrixError> {
    let body = json!({ "caller": caller.session.user_id, "name": body.name });
    Ok(body.to_string().into_bytes().into())
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The API and what a test holds on to.
pub(crate) struct Fixture {
    router: Router,
    pub(crate) http: Http,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn fixture() -> Fixture {
    fixture_with(HttpConfig::default())
}

pub(crate) fn fixture_with(config: HttpConfig) -> Fixture {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let http = Http::new(config, clock.clone(), Shutdown::new()).unwrap();
    let rooms = Endpoints::new()
        .ruma_with(Class::Message, send)
        .ruma(send_state)
        .ruma(get_state)
        .ruma_with(Class::Membership, join)
        .ruma_with(Class::Membership, join_by_id)
        .ruma_with(Class::Membership, create);
    let router = Endpoints::new()
        .ruma(whoami)
        .merge(rooms)
        .ruma_with(Policy::default().allow_locked(), log_out)
        .ruma_with(Policy::from(Class::Login).require("type"), log_in)
        .ruma(alias)
        .ruma(versions)
        .ruma(password)
        .ruma(push_rules)
        .ruma_with(Policy::default().raw_body(10_000), upload)
        .ruma_with(Policy::default().long_poll(), sync)
        .ruma_with(Policy::default().json_body(2 * 1024 * 1024), transaction)
        .route("/_matrix/client/unstable/org.example/name", post(echo_name))
        .into_router(App { http: http.clone() });
    Fixture { router: finish(router), http, clock }
}

/// Nothing but login, whose parser panics on an object without `type`.
pub(crate) fn unchecked_login() -> Fixture {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let http = Http::new(HttpConfig::default(), clock.clone(), Shutdown::new()).unwrap();
    let router = Endpoints::new().ruma(log_in).into_router(App { http: http.clone() });
    Fixture { router: finish(router), http, clock }
}

/// A response, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and error code, for short comparisons.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errcode"].as_str().unwrap_or("none").to_owned())
    }
}

impl Fixture {
    pub(crate) async fn send(&self, request: Request) -> Answer {
        let response: Response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// As `alice`.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        self.send(request(method, path, Some("token_of_alice"), body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    token: Option<&str>,
    body: impl Into<Body>,
) -> Request {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        builder = builder.header("authorization", format!("Bearer {token}"));
    }
    let mut request = builder.body(body.into()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 50_000))));
    request
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
