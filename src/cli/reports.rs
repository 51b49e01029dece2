//! `hearth reports`: what users report to the operator.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use clap::Subcommand;
use hearth_users::{LISTED_REPORTS, Report, ReportSubject};

use super::{Cli, CliError, administer};
use crate::admin::{AdminAnswer, AdminRequest};

#[derive(Subcommand)]
pub(super) enum ReportsCommand {
    /// List the newest reports, a line for each
    List {
        /// List those before this one
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
    /// Show a report with what it is about
    Show {
        /// The report's number
        number: u64,
    },
    /// Remove a report that was dealt with
    Remove {
        /// The report's number
        number: u64,
    },
}

pub(super) fn run(cli: &Cli, command: &ReportsCommand) -> Result<(), CliError> {
    let config = cli.load(&cli.existing_config()?)?;
    let request = match *command {
        ReportsCommand::List { before } => AdminRequest::Reports { before },
        ReportsCommand::Show { number } => AdminRequest::ShowReport { number },
        ReportsCommand::Remove { number } => AdminRequest::RemoveReport { number },
    };
    let out = &mut io::stdout();
    match (command, administer(&config, request)?) {
        (ReportsCommand::List { .. }, AdminAnswer::Reports(reports)) => list(out, &reports)?,
        (ReportsCommand::Show { .. }, AdminAnswer::Report(number, report)) => {
            show(out, number, &report)?;
        }
        (ReportsCommand::Remove { .. }, AdminAnswer::Report(number, _)) => {
            writeln!(out, "report {number} is removed")?;
        }
        _ => return Err(CliError::Told("the server answered another question".to_owned())),
    }
    Ok(())
}

fn list(out: &mut impl Write, reports: &[(u64, Report)]) -> io::Result<()> {
    if reports.is_empty() {
        return writeln!(out, "no reports");
    }
    for (number, report) in reports {
        let Report { reporter, subject, reason, .. } = report;
        let at = moment(report.at_ms);
        let reason = one_line(reason);
        writeln!(out, "{number}  {at}  {reporter} reports {}: {reason}", about(subject))?;
    }
    if let Some((last, _)) = reports.last().filter(|_| reports.len() >= LISTED_REPORTS) {
        writeln!(out, "Older ones: hearth reports list --before {last}")?;
    }
    Ok(())
}

fn show(out: &mut impl Write, number: u64, report: &Report) -> io::Result<()> {
    writeln!(out, "Report    {number}")?;
    writeln!(out, "When      {}", moment(report.at_ms))?;
    writeln!(out, "From      {}", report.reporter)?;
    writeln!(out, "About     {}", about(&report.subject))?;
    writeln!(out, "Reason    {}", one_line(&report.reason))?;
    if let Some(event) = &report.event {
        writeln!(out, "Sender    {}", event.sender)?;
        writeln!(out, "Type      {}", one_line(&event.event_type))?;
        writeln!(out, "Content   {}", one_line(&event.content))?;
    } else if matches!(report.subject, ReportSubject::Event(..)) {
        writeln!(out, "Content   not known: the reporter could not see such an event here")?;
    }
    Ok(())
}

fn about(subject: &ReportSubject) -> String {
    match subject {
        ReportSubject::User(user_id) => format!("user {user_id}"),
        ReportSubject::Room(room_id) => format!("room {}", one_line(room_id.as_str())),
        ReportSubject::Event(room_id, event_id) => {
            format!("event {} in {}", one_line(event_id.as_str()), one_line(room_id.as_str()))
        }
    }
}

/// Strangers' text without what a terminal takes for a command.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// The last moment that a date can be written of, in milliseconds: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_000;

/// A time for people.
fn moment(at_ms: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS)))
}
