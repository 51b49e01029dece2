//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::register::Registration;

/// Measures a Matrix homeserver through the client-server API alone.
///
/// The server must let the generator register users and must not limit its requests' rate; `--serve` starts a Hearth set up that way.
#[derive(Clone, Debug, Parser)]
#[command(name = "hearth-loadgen", version)]
pub(crate) struct Options {
    /// What to measure.
    #[arg(required = true, value_enum)]
    pub(crate) scenarios: Vec<Scenario>,
    /// The server's address; plain HTTP.
    #[arg(long, default_value = "http://127.0.0.1:8008")]
    pub(crate) url: String,
    /// Start this Hearth binary on a free port with an empty data folder, and stop it at the end.
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["url", "server_pid"])]
    pub(crate) serve: Option<PathBuf>,
    /// With `--serve`: where to make the data folder (and nginx's), instead of the system's temporary folder.
    #[arg(long, value_name = "FOLDER", requires = "serve")]
    pub(crate) serve_in: Option<PathBuf>,
    /// The server's process on this machine, to read its processor time, memory and written bytes (Linux).
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// A registration token, where the server asks for one.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) registration_token: Option<String>,
    /// Register through `/_synapse/admin/v1/register` with this secret, where the server has that endpoint.
    #[arg(long, value_name = "SECRET", conflicts_with = "registration_token")]
    pub(crate) shared_secret: Option<String>,
    /// Length of each measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Chooses rooms and events.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// `sends`, `delivery`: number of rooms.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rooms: u32,
    /// `sends`, `receipts`: number of concurrent senders, each with its own user and connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) senders: u32,
    /// `delivery`: messages per second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// `members`: messages per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) members_rate: u32,
    /// `federation`: messages per second, one measurement each.
    #[arg(long, value_delimiter = ',', default_value = "200,500",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) federation_rates: Vec<u32>,
    /// `fanout`, `create-join`, `members`: sizes of the room, ascending.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,5000",
          value_parser = clap::value_parser!(u32).range(3..=100_000))]
    pub(crate) sizes: Vec<u32>,
    /// `fanout`: most members that are connected.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connected: u32,
    /// `members`: members that are connected, in every size of room.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) active: u32,
    /// `sync`: rooms of the user.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) sync_rooms: u32,
    /// `sliding`: rooms of the user.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    pub(crate) sliding_rooms: u32,
    /// `pagination`: messages in the room.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) history: u32,
    /// `push`: messages per second.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) push_rate: u32,
    /// `push`: rooms, each with a hundred members.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) push_rooms: u32,
    /// `push`: how often the load is measured with pushers, each time between two times without.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) push_rounds: u32,
    /// `idle-polls`, `idle-sockets`: number of waiting connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) idle: u32,
    /// `claims`: devices whose keys are claimed, 100 of each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) devices: u32,
    /// `claims`: number of concurrent claimers, each with its own connection.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) claimers: u32,
    /// `media`: the nginx binary to compare with; it is started on a free port of loopback, and stopped at the end.
    #[arg(long, value_name = "BINARY")]
    pub(crate) nginx: Option<PathBuf>,
    /// Write the results to this file, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Length of each measurement.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }

    /// How users are made.
    pub(crate) fn registration(&self) -> Registration {
        match (&self.shared_secret, &self.registration_token) {
            (Some(secret), _) => Registration::SharedSecret(secret.clone()),
            (None, Some(token)) => Registration::Token(token.clone()),
            (None, None) => Registration::Open,
        }
    }

    /// The scenarios in the order in which they run, each once.
    pub(crate) fn plan(&self) -> Vec<Scenario> {
        if self.scenarios.contains(&Scenario::All) {
            return Scenario::value_variants()
                .iter()
                .copied()
                .filter(|one| *one != Scenario::All)
                .filter(|one| *one != Scenario::Federation || self.serve.is_some())
                .collect();
        }
        let mut plan = Vec::new();
        for scenario in &self.scenarios {
            if !plan.contains(scenario) {
                plan.push(*scenario);
            }
        }
        plan
    }
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Everything below; `federation` only with `--serve`.
    All,
    /// Sends as fast as the senders get answers: over many rooms, then into one.
    Sends,
    /// From send to the other client's long-poll, at a fixed rate.
    Delivery,
    /// Time to create a room, and to join one while it grows.
    CreateJoin,
    /// One message at a time to every connected member of a room.
    Fanout,
    /// Cost of a message in rooms of different sizes with the same few members connected.
    Members,
    /// Initial sync, and incremental sync with nothing new, of a user in many rooms.
    Sync,
    /// Simplified sliding sync of a user in many rooms: first answers, and follow-ups with nothing new.
    Sliding,
    /// Reading a room's history backwards.
    Pagination,
    /// Sends into rooms some of whose members have pushers, at a fixed rate, and the same without them.
    /// The server must be allowed to push to a gateway on loopback without TLS.
    Push,
    /// Read receipts from many members at once.
    Receipts,
    /// Claims of one-time keys of many devices, until all are claimed.
    Claims,
    /// Up- and download of files on one connection, and the server's memory meanwhile; with `--nginx` beside the same
    /// with nginx.
    Media,
    /// From one server's client to another server's, over TLS, in one room that a third server is in
    /// that cannot be reached. Needs `--serve`.
    Federation,
    /// Server memory per waiting long-poll.
    IdlePolls,
    /// Server memory per waiting WebSocket, where the server offers Hearth's transport.
    IdleSockets,
}

impl Scenario {
    /// Does it measure what the server has allocated? What earlier scenarios left behind would spoil that.
    pub(crate) fn wants_fresh_server(self) -> bool {
        matches!(self, Self::Media | Self::IdlePolls | Self::IdleSockets)
    }

    /// Does it start its own servers?
    pub(crate) fn starts_servers(self) -> bool {
        self == Self::Federation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once(&"loadgen").chain(arguments))
    }

    #[test]
    fn all_is_every_scenario_once() {
        let plan = parse(&["sends", "all"]).unwrap().plan();
        assert_eq!(plan.len(), Scenario::value_variants().len() - 2);
        assert!(!plan.contains(&Scenario::All) && !plan.contains(&Scenario::Federation));
        let plan = parse(&["all", "--serve", "x"]).unwrap().plan();
        assert_eq!(plan.len(), Scenario::value_variants().len() - 1);
    }

    #[test]
    fn named_scenarios_run_in_the_given_order_once() {
        let plan = parse(&["sync", "sends", "sync"]).unwrap().plan();
        assert_eq!(plan, [Scenario::Sync, Scenario::Sends]);
    }

    #[test]
    fn refuses_what_would_not_end() {
        assert!(parse(&["sends", "--seconds", "999999"]).is_err());
        assert!(parse(&["sends", "--rooms", "0"]).is_err());
        assert!(parse(&[]).is_err());
        assert!(parse(&["sends", "--serve", "x", "--url", "http://a"]).is_err());
    }
}
