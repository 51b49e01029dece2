//! Telling everything that waits to stop.

use tokio_util::sync::CancellationToken;

/// A signal, given once, that the server is shutting down. Clones share it.
///
/// Handlers that wait (long-polls, WebSockets) select on [`requested`](Self::requested) and answer with
/// what they have.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal not yet given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal. Giving it again does nothing.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Has the signal been given?
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the signal; returns at once if it was given before. Cancel-safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}
