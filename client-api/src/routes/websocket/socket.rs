//! One socket: updates out, acknowledgements and requests in, until either side ends it.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{FuturesUnordered, SplitSink, SplitStream},
};
use hearth_http::{ApiState, Authenticate, MatrixError};
use hearth_sync::{SyncError, SyncStream};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    MAX_MESSAGE_BYTES,
    requests::{self, Request},
};
use crate::{ApiError, ClientApi, LocalUser, routes::watch::Watch};

/// How often the server pings, and looks whether the token still counts.
const PING_EVERY: Duration = Duration::from_secs(30);
/// A socket from which nothing came for so long is closed.
const SILENCE: Duration = Duration::from_secs(90);
/// How long one message may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of one socket that are worked on at a time; further ones wait unread.
const MAX_REQUESTS: usize = 16;

/// A socket and whom it belongs to.
pub(super) struct Socket {
    app: ClientApi,
    caller: LocalUser,
    token: String,
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    last_heard: Instant,
}

/// Why a socket ends.
enum End {
    /// The connection is gone, or the client said goodbye.
    Gone,
    /// The server ends it, with a code and a reason.
    Close(u16, &'static str),
}

/// What a client may send.
enum Incoming {
    Acknowledgement { ack: String },
    Request(Request),
}

/// The fields of both kinds. (An untagged enum cannot hold parameters that are left as text.)
#[derive(Deserialize)]
struct Fields {
    ack: Option<String>,
    id: Option<String>,
    method: Option<String>,
    params: Option<Box<RawValue>>,
}

impl Socket {
    pub(super) fn new(app: ClientApi, caller: LocalUser, token: String, socket: WebSocket) -> Self {
        let (sink, stream) = socket.split();
        Self { app, caller, token, sink, stream, last_heard: Instant::now() }
    }

    /// Serves the socket until it ends.
    pub(super) async fn run(mut self, updates: SyncStream) {
        if let End::Close(code, reason) = self.serve(updates).await {
            let frame = CloseFrame { code, reason: reason.into() };
            // The peer may be gone already; there is nobody left to tell.
            drop(self.send(Message::Close(Some(frame))).await);
        }
    }

    async fn serve(&mut self, mut updates: SyncStream) -> End {
        let mut working = FuturesUnordered::new();
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.app.http().shutdown().clone();
        // The end of a session is among what changes a user.
        let user_changed = Watch::new(&self.app, self.caller.user_id().as_str());
        loop {
            let step = tokio::select! {
                update = updates.next() => match update {
                    Ok(Some(update)) => match String::from_utf8(update.body.into()) {
                        Ok(text) => self.send(Message::text(text)).await,
                        Err(_) => Err(End::Close(close_code::ERROR, "internal error")),
                    },
                    Ok(None) => Err(End::Close(close_code::AWAY, "the server shuts down")),
                    Err(error) => Err(failed(error)),
                },
                Some(answer) = working.next(), if !working.is_empty() => {
                    self.send(Message::text::<String>(answer)).await
                }
                message = self.stream.next(), if working.len() < MAX_REQUESTS => {
                    self.last_heard = Instant::now();
                    match take(message) {
                        Ok(Some(Incoming::Acknowledgement { ack })) => {
                            self.acknowledged(&mut updates, &ack).await
                        }
                        Ok(Some(Incoming::Request(request))) => match self.authorize().await {
                            Ok(()) => {
                                let (app, caller) = (self.app.clone(), self.caller.clone());
                                working.push(requests::answer(app, caller, request));
                                Ok(())
                            }
                            Err(end) => Err(end),
                        },
                        Ok(None) => Ok(()),
                        Err(end) => Err(end),
                    }
                }
                _ = ping.tick() => self.tick().await,
                () = user_changed.changed() => self.authorize().await,
                () = shutdown.requested() => {
                    Err(End::Close(close_code::AWAY, "the server shuts down"))
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match tokio::time::timeout(SEND_TIMEOUT, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    async fn acknowledged(&mut self, updates: &mut SyncStream, token: &str) -> Result<(), End> {
        match updates.acknowledge(token).await {
            Ok(()) => Ok(()),
            Err(SyncError::InvalidParam(text)) => {
                let error = json!({"errcode": "M_INVALID_PARAM", "error": text});
                self.send(Message::text(json!({ "error": error }).to_string())).await
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn tick(&mut self) -> Result<(), End> {
        if self.last_heard.elapsed() > SILENCE {
            return Err(End::Gone);
        }
        self.authorize().await?;
        self.send(Message::Ping(Vec::new().into())).await
    }

    /// The token may have ended since the socket was opened.
    async fn authorize(&mut self) -> Result<(), End> {
        match self.app.authenticate(&self.token, None).await {
            Ok(caller) if !hearth_http::Session::is_locked(&caller) => {
                self.caller = caller;
                Ok(())
            }
            _ => Err(End::Close(close_code::POLICY, "the access token is no longer valid")),
        }
    }
}

fn failed(error: SyncError) -> End {
    // Logs the cause, once.
    let error = MatrixError::from(ApiError::from(error));
    tracing::debug!(%error, "a WebSocket's updates ended");
    End::Close(close_code::ERROR, "internal error")
}

/// Reads what came; `None` for what needs no answer.
fn take(message: Option<Result<Message, axum::Error>>) -> Result<Option<Incoming>, End> {
    match message {
        None | Some(Ok(Message::Close(_))) => Err(End::Gone),
        Some(Err(_)) => Err(End::Close(close_code::SIZE, "the message is too large or broken")),
        Some(Ok(Message::Binary(_))) => {
            Err(End::Close(close_code::UNSUPPORTED, "text frames only"))
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Text(text))) if text.len() > MAX_MESSAGE_BYTES => {
            Err(End::Close(close_code::SIZE, "the message is too large"))
        }
        Some(Ok(Message::Text(text))) => parse(&text)
            .map(Some)
            .ok_or(End::Close(close_code::INVALID, "not a message of this protocol")),
    }
}

fn parse(text: &str) -> Option<Incoming> {
    let fields: Fields = serde_json::from_str(text).ok()?;
    match (fields.ack, fields.id, fields.method) {
        (Some(ack), None, None) => Some(Incoming::Acknowledgement { ack }),
        (None, Some(id), Some(method)) => {
            Some(Incoming::Request(Request { id, method, params: fields.params }))
        }
        _ => None,
    }
}
