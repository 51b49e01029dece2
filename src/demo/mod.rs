//! `hearth demo`: two servers on this machine that federate, and a conversation between them.
//!
//! Both are the server as it is always started, with a store of its own; only their data is temporary,
//! and whom they trust and speak with is each other alone. Their users are ordinary clients, which know
//! nothing but their own server's address, and talk encrypted from end to end.

mod client;
mod person;
mod servers;
mod story;

use std::io::{self, Write};

use tokio::signal::unix::{SignalKind, signal};

use self::{client::ClientError, servers::Servers};
use crate::StartError;

/// Why the demonstration did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A temporary file cannot be written, or the story not be told.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The certificates cannot be made.
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    /// A server does not start or stop.
    #[error("{0}")]
    Start(#[from] StartError),
    /// A server's ways to the other cannot be set up.
    #[error("{0}")]
    Federation(#[from] hearth_federation::FederationError),
    /// A server did not do what its user asked.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// Something cannot be encrypted, or a server does not do its part in it.
    #[error("{0}")]
    Encryption(#[from] hearth_olm_client::Error),
    /// A server made an ID that is none.
    #[error("{0}")]
    Id(#[from] ruma::IdParseError),
    /// A server holds what only the devices are to know, or a device reads something else than was said.
    #[error("not encrypted as it should be: {0}")]
    Exposed(String),
    /// The servers ended up with different rooms.
    #[error("the servers disagree: {0}")]
    Disagreement(String),
}

/// Tells the story to its end, or until the process is asked to stop. Leaves nothing behind.
pub(crate) async fn run(out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut servers = Servers::new()?;
    let told = tokio::select! {
        told = story::tell(&mut servers, out) => told,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let closed = servers.close().await;
    told?;
    closed?;
    writeln!(out, "\nThe servers have stopped, and their data is removed.")?;
    Ok(())
}
