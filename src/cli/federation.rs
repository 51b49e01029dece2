//! `hearth federation`: what an operator asks about other servers.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Subcommand;
use hearth_federation::{
    diagnosis::{self, Finding},
    outbound::DestinationReport,
    transport::HttpTransport,
};
use hearth_types::{Clock as _, SystemClock};
use ruma::OwnedServerName;

use super::{Cli, CliError, administer, runtime};
use crate::{
    Config, OpenError,
    admin::{AdminAnswer, AdminRequest},
};

#[derive(Subcommand)]
pub(super) enum FederationCommand {
    /// Find and reach a server as this one would, and explain each step
    ///
    /// Uses the configuration if there is one, but neither the store nor a running server.
    Check {
        /// The server's name, which ends the IDs of its users
        name: OwnedServerName,
    },
    /// List the servers that this one sends to, with what waits for each and the last error
    ///
    /// Works whether or not the server runs.
    Destinations,
}

pub(super) fn run(cli: &Cli, command: &FederationCommand) -> Result<(), CliError> {
    match command {
        FederationCommand::Check { name } => check(cli, name),
        FederationCommand::Destinations => destinations(cli),
    }
}

fn check(cli: &Cli, name: &OwnedServerName) -> Result<(), CliError> {
    let path = cli.config_path();
    let has_file = cli.config.is_some() || path.exists();
    let path = if has_file { Some(cli.existing_config()?) } else { None };
    let Config { federation, .. } = cli.load_from(path.as_deref())?;
    let transport = HttpTransport::new(&federation).map_err(OpenError::from)?;
    let (mut out, mut written) = (io::stdout(), Ok(()));
    let mut tell = |finding| {
        if written.is_ok() {
            written = tell_finding(&mut out, &finding);
        }
    };
    let reached = runtime()?.block_on(diagnosis::diagnose(
        &transport,
        &federation,
        &SystemClock,
        name,
        &mut tell,
    ));
    written?;
    if !reached {
        return Err(CliError::Told(format!("{name} cannot be reached from here")));
    }
    writeln!(out, "\n{name} can be reached from here.")?;
    Ok(())
}

fn tell_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    match finding {
        Finding::Step(text) => writeln!(out, "\n{text}"),
        Finding::Good(text) => writeln!(out, "  ok       {text}"),
        Finding::Note(text) => writeln!(out, "           {text}"),
        Finding::Warning(text) => writeln!(out, "  warning  {text}"),
        Finding::Bad(text) => writeln!(out, "  FAILED   {text}"),
    }
}

fn destinations(cli: &Cli) -> Result<(), CliError> {
    let config = cli.load(&cli.existing_config()?)?;
    let AdminAnswer::Destinations(reports) = administer(&config, AdminRequest::Destinations)?
    else {
        return Err(CliError::Told("the server answered another question".to_owned()));
    };
    tell_destinations(&mut io::stdout().lock(), reports, SystemClock.now_ms())?;
    Ok(())
}

/// A line a server, those with something to say first.
fn tell_destinations(
    out: &mut impl Write,
    mut reports: Vec<DestinationReport>,
    now_ms: u64,
) -> io::Result<()> {
    if reports.is_empty() {
        return writeln!(out, "This server shares no room with another yet.");
    }
    let troubled = reports.iter().filter(|report| !report.is_well()).count();
    writeln!(
        out,
        "{} other servers; {troubled} have something waiting or failed.\n",
        reports.len()
    )?;
    reports.sort_by_key(DestinationReport::is_well);
    let width = reports.iter().map(|report| report.server.as_str().len()).max().unwrap_or(0).max(6);
    writeln!(
        out,
        "{:width$}  {:>6}  {:>8}  {:>8}  {:14}  LAST ERROR",
        "SERVER", "ROOMS", "WAITING", "FAILURES", "NEXT ATTEMPT"
    )?;
    for report in &reports {
        let DestinationReport { server, rooms, failures, .. } = report;
        let server = server.as_str();
        let more = if report.waiting_is_more { "+" } else { "" };
        let waiting = format!("{}{more}", report.waiting);
        let attempt = report.retry_at_ms.map_or("-".to_owned(), |at| attempt(at, now_ms));
        let mut error = report.last_error.clone().unwrap_or_else(|| "-".to_owned());
        // Other servers' words must not play tricks on a terminal.
        error.retain(|next| !next.is_control());
        writeln!(
            out,
            "{server:width$}  {rooms:>6}  {waiting:>8}  {failures:>8}  {attempt:14}  {error}"
        )?;
    }
    Ok(())
}

/// When a server is tried again.
fn attempt(at_ms: u64, now_ms: u64) -> String {
    match at_ms.checked_sub(now_ms) {
        Some(wait) if wait > 0 => {
            format!("in {}", diagnosis::duration(Duration::from_millis(wait)))
        }
        _ => "when needed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(server: &str) -> DestinationReport {
        DestinationReport {
            server: server.try_into().unwrap(),
            rooms: 3,
            waiting: 0,
            waiting_is_more: false,
            failures: 0,
            retry_at_ms: None,
            last_error: None,
        }
    }

    fn told(reports: Vec<DestinationReport>) -> String {
        let mut out = Vec::new();
        tell_destinations(&mut out, reports, 1_000_000).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn troubled_servers_come_first() {
        let lagging =
            DestinationReport { waiting: 20_000, waiting_is_more: true, ..report("b.example") };
        let failing = DestinationReport {
            failures: 4,
            retry_at_ms: Some(1_300_000),
            last_error: Some("it is down\u{1b}[2J".to_owned()),
            ..report("c.example:8448")
        };
        let text = told(vec![report("a.example"), lagging, failing]);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "3 other servers; 2 have something waiting or failed.",
                "",
                "SERVER           ROOMS   WAITING  FAILURES  NEXT ATTEMPT    LAST ERROR",
                "b.example            3    20000+         0  -               -",
                "c.example:8448       3         0         4  in 5 minutes    it is down[2J",
                "a.example            3         0         0  -               -",
            ]
        );
    }

    #[test]
    fn nobody_is_said_in_words() {
        assert_eq!(told(Vec::new()), "This server shares no room with another yet.\n");
    }

    #[test]
    fn an_attempt_that_is_due_waits_for_a_reason() {
        assert_eq!(attempt(10, 10), "when needed");
        assert_eq!(attempt(9_010, 10), "in 9 seconds");
    }
}
