//! Runs one scenario with clients of the published matrix-sdk, against homeservers that run already: of encryption between
//! them, or of what Element X is made of, matrix-sdk-ui.
//!
//! scripts/acceptance builds this crate and runs every scenario on every pair of servers (tests/acceptance/sdk.py). All
//! that the servers must be is open for registration, with passwords and without rate limits. `RUST_LOG` shows what the
//! SDK does. A scenario that wants the first server killed and started again says so on the standard output, as one line
//! `restart`, and goes on when it reads a line.

mod attachment;
mod backup;
mod conversation;
mod cross_signing;
mod people;
mod phone;
mod phone_badges;
mod phone_reconnect;
mod phone_rooms;
mod phone_threads;
mod phone_timeline;
mod rooms;
mod secret_storage;
mod verification;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use matrix_sdk::reqwest::Url;
use tracing_subscriber::EnvFilter;

/// Runs one scenario with clients of matrix-sdk against running homeservers.
#[derive(Parser)]
struct Arguments {
    scenario: Scenario,
    /// The base URL of Alice's homeserver.
    #[arg(long)]
    first: Url,
    /// The base URL of Bob's homeserver, which may be the same.
    #[arg(long)]
    second: Url,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scenario {
    CrossSigning,
    VerifyDevices,
    VerifyUsers,
    SecretStorage,
    Backup,
    Talk,
    LateKey,
    Attachment,
    RoomList,
    RoomListAfterwards,
    Timeline,
    TimelineMedia,
    Badges,
    Threads,
    SlidingTalk,
    Reconnect,
}

/// Where Alice and Bob have their accounts.
struct Servers {
    first: Url,
    second: Url,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into()))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let Arguments { scenario, first, second } = Arguments::parse();
    let servers = Servers { first, second };
    match scenario {
        Scenario::CrossSigning => cross_signing::scenario(&servers).await,
        Scenario::VerifyDevices => verification::of_two_devices(&servers).await,
        Scenario::VerifyUsers => verification::of_two_users(&servers).await,
        Scenario::SecretStorage => secret_storage::scenario(&servers).await,
        Scenario::Backup => backup::scenario(&servers).await,
        Scenario::Talk => conversation::both_ways(&servers).await,
        Scenario::LateKey => conversation::late_key(&servers).await,
        Scenario::Attachment => attachment::scenario(&servers).await,
        Scenario::RoomList => phone_rooms::at_first(&servers).await,
        Scenario::RoomListAfterwards => phone_rooms::afterwards(&servers).await,
        Scenario::Timeline => phone_timeline::scroll_back(&servers).await,
        Scenario::TimelineMedia => Box::pin(phone_timeline::media(&servers)).await,
        Scenario::Badges => phone_badges::scenario(&servers).await,
        Scenario::Threads => phone_threads::scenario(&servers).await,
        Scenario::SlidingTalk => phone_timeline::encrypted_talk(&servers).await,
        Scenario::Reconnect => phone_reconnect::scenario(&servers).await,
    }
    .context("the scenario failed")
}
