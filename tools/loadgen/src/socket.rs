//! Hearth's WebSocket transport, as far as the scenarios need it (`docs/websocket.md`).

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::Account;
use crate::connection::Target;
use crate::paths;
use crate::scan;

/// Subprotocol of the transport.
const SUBPROTOCOL: &str = "m.json";
/// Buffer for reading; the default is 128 KiB for each socket.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// An open socket.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Opens a socket that continues from `since`.
    pub(crate) async fn open(
        target: &Target,
        account: &Account,
        since: &str,
        filter: &str,
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect(target.authority()).await?;
        stream.set_nodelay(true)?;
        let uri = format!("ws://{}{}", target.authority(), paths::websocket(since, filter));
        let authorization = account.authorization().to_str().unwrap_or_default();
        let request = ClientRequestBuilder::new(uri.parse()?)
            .with_header("Authorization", authorization)
            .with_sub_protocol(SUBPROTOCOL);
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        let (stream, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        Ok(Self { stream })
    }

    /// Waits for the next update and acknowledges it. `None`: the socket was closed. Pings are answered meanwhile.
    pub(crate) async fn update(&mut self) -> Option<Result<(), Error>> {
        loop {
            let text = match self.stream.next().await? {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(error) => return Some(Err(error)),
            };
            if let Some(token) = scan::string_field(text.as_bytes(), "next_batch") {
                let acknowledgement = Message::text(json!({"ack": token}).to_string());
                return Some(self.stream.send(acknowledgement).await);
            }
        }
    }
}
