//! Taking some updates through the WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A stream of updates; whatever ends it, the client goes on elsewhere with its token.
pub(crate) struct Updates(Socket);

impl Updates {
    pub(crate) async fn open(base: &str, query: &str, token: &str) -> Option<Self> {
        let address = base.replace("http://", "ws://");
        let url = format!("{address}/_matrix/client/unstable/org.hearth.websocket/sync?{query}");
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("Authorization", format!("Bearer {token}").parse().unwrap());
        headers.insert("Sec-WebSocket-Protocol", "m.json".parse().unwrap());
        connect_async(request).await.ok().map(|(socket, _)| Self(socket))
    }

    /// The next update; `None` when the socket has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Text(text) => {
                    let update: Value = serde_json::from_str(&text).unwrap();
                    if update.get("next_batch").is_some() {
                        return Some(update);
                    }
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    pub(crate) async fn acknowledge(&mut self, token: &str) {
        let text = json!({ "ack": token }).to_string();
        drop(self.0.send(Message::text(text)).await);
    }
}
