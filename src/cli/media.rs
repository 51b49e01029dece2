//! `hearth media`: what the operator hides or removes.

use std::io::{self, Write as _};

use clap::Subcommand;
use ruma::OwnedMxcUri;

use super::{Cli, CliError, administer};
use crate::admin::{AdminAnswer, AdminRequest, MediaAction};

#[derive(Subcommand)]
pub(super) enum MediaCommand {
    /// Hide content from everybody, under every URI that has the same bytes; they are kept
    Quarantine {
        /// The content's URI, as mxc://server/media
        uri: OwnedMxcUri,
    },
    /// Show content again that was quarantined
    EndQuarantine {
        /// The content's URI, as mxc://server/media
        uri: OwnedMxcUri,
    },
    /// Remove content, for good; bytes that other URIs have, too, are kept. What is another server's can be fetched
    /// again: quarantine it to prevent that
    Remove {
        /// The content's URI, as mxc://server/media
        uri: OwnedMxcUri,
    },
}

pub(super) fn run(cli: &Cli, command: &MediaCommand) -> Result<(), CliError> {
    let config = cli.load(&cli.existing_config()?)?;
    let (uri, action, done) = match command {
        MediaCommand::Quarantine { uri } => (uri, MediaAction::Quarantine, "is quarantined"),
        MediaCommand::EndQuarantine { uri } => (uri, MediaAction::EndQuarantine, "is shown again"),
        MediaCommand::Remove { uri } => (uri, MediaAction::Remove, "is removed"),
    };
    let request = AdminRequest::Media { uri: uri.clone(), action };
    let AdminAnswer::Media(uri) = administer(&config, request)? else {
        return Err(CliError::Told("the server answered another question".to_owned()));
    };
    Ok(writeln!(io::stdout(), "{uri} {done}")?)
}
