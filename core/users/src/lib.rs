//! Everything that belongs to one person: account, devices, tokens, profile, account data, tags,
//! filters, push rules, presence, typing, receipts.
//!
//! [`Users`] is the one face of this crate; its methods are grouped in modules by subject. Rows that
//! belong to a user are changed only under that user's lock, in a task of their own, so that a request
//! that goes away in the middle never leaves memory and store apart. Receipts are written by one task
//! that gathers what arrives while its last commit is under way.
//!
//! The crate knows nothing of HTTP, of who is in which room, or of events: callers say who may do what
//! to a room, tell other users' rooms about changed profiles ([`ProfileChange`]) and hand in an event's
//! place in its timeline.

mod account_data;
mod accounts;
mod config;
mod devices;
mod directory;
mod error;
mod expiring;
mod filters;
mod guesses;
mod ignored;
mod invites;
mod log;
mod openid;
mod passwords;
mod presence;
mod profiles;
mod push_rules;
mod receipts;
mod registration;
mod remote;
mod reports;
mod sessions;
mod succession;
mod tags;
mod tokens;
mod typing;
mod uia;
mod users;

pub use self::{
    account_data::{AccountDataEntry, AccountDataScope},
    accounts::{Account, NewAccount},
    config::{Argon2Config, ConfigError, Secret, UsersConfig},
    devices::Device,
    directory::{DirectoryMatch, MAX_CANDIDATES as MAX_DIRECTORY_CANDIDATES, NameWords},
    error::{AuthError, UsersError},
    guesses::Guesser,
    log::{LogKind, ReceiptLog},
    openid::OpenIdToken,
    presence::{Presence, PresenceAudience, PresenceGuard, RemotePresence},
    profiles::{Profile, ProfileChange},
    push_rules::PushRuleError,
    receipts::{ReadPositions, ReceiptEntry, ReceiptUpdate},
    registration::{RegistrationToken, SharedSecretRegistration},
    remote::{DeviceChange, DeviceKeeper, EphemeralWatcher, RemoteProfiles},
    reports::{LISTED as LISTED_REPORTS, Report, ReportSubject, ReportedEvent},
    sessions::{IssuedTokens, NewSession, Session},
    tags::TaggedRooms,
    tokens::TokenHash,
    typing::{Typing, TypingSerial},
    uia::{UiaChallenge, UiaError, UiaFlow, UiaOutcome, UiaProof, UiaRequest},
    users::Users,
};

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] = &[
    accounts::ACCOUNTS.name(),
    accounts::GUESTS.name(),
    profiles::PROFILES.name(),
    devices::DEVICES.name(),
    devices::DEVICES_SEEN.name(),
    sessions::ACCESS_TOKENS.name(),
    sessions::REFRESH_TOKENS.name(),
    openid::OPENID_TOKENS.name(),
    registration::REGISTRATION_TOKENS.name(),
    account_data::ACCOUNT_DATA.name(),
    account_data::ACCOUNT_DATA_CHANGES.name(),
    filters::FILTERS.name(),
    filters::FILTER_NUMBERS.name(),
    presence::PRESENCE.name(),
    receipts::RECEIPTS.name(),
    reports::REPORTS.name(),
    reports::REPORT_NUMBER.name(),
];
