//! The command line.

mod federation;
mod media;
mod reports;

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use hearth_users::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    Config, ConfigError, RunningServer, StartError, StartOptions,
    admin::{self, AdminAnswer, AdminRequest, Administered},
    background,
    config::{self, LogConfig, render},
    demo,
    parts::{OpenError, Parts},
    password,
    start::{self, start},
    telemetry,
};

/// Where the configuration is when nothing else is said.
const DEFAULT_CONFIG: &str = "hearth.toml";

/// Threads for blocking work: larger reads and password hashes.
const MAX_BLOCKING_THREADS: usize = 64;

/// A Matrix homeserver. Without a command it serves.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The configuration file [default: hearth.toml, written on the first start]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The data folder, instead of the configured one
    #[arg(long, global = true, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Go on with a new signing key when the old one is lost
    #[arg(long)]
    replace_lost_key: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve,
    /// Make and change accounts, whether or not the server runs
    #[command(subcommand)]
    User(UserCommand),
    /// Look at how the server gets on with others
    #[command(subcommand)]
    Federation(federation::FederationCommand),
    /// Hide or remove content, whether or not the server runs
    #[command(subcommand)]
    Media(media::MediaCommand),
    /// Read what users report, whether or not the server runs
    #[command(subcommand)]
    Reports(reports::ReportsCommand),
    /// Show two servers on this machine federating, with temporary data
    Demo,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
enum UserCommand {
    /// Make an account
    Create {
        /// The name before the colon, or the whole user ID
        user: String,
        /// Make the user an administrator of this server
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Set another password, and log the user's devices out
    Password {
        /// The name before the colon, or the whole user ID
        user: String,
        /// Leave the user's devices logged in
        #[arg(long)]
        keep_sessions: bool,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Deactivate an account, for good: the user leaves all rooms, and nobody can have the name again
    Deactivate {
        /// The name before the colon, or the whole user ID
        user: String,
        /// Hide the user's messages from those who join their rooms later
        #[arg(long)]
        erase: bool,
    },
}

/// Without any of these the password is asked for.
#[derive(Args)]
#[group(multiple = false)]
struct PasswordArgs {
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// Make a password up and print it
    #[arg(long)]
    generate: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the configuration without starting anything
    Check,
    /// Print a configuration with every setting, its meaning and its default
    Example,
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Demo(#[from] demo::DemoError),
    #[error("{0}")]
    Told(String),
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = io::stderr();
            if writeln!(stderr, "hearth: {error}").is_err() {
                tracing::debug!("standard error is closed");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    match &cli.command {
        None | Some(Command::Serve) => serve(cli),
        Some(Command::User(command)) => user(cli, command),
        Some(Command::Demo) => show_demo(),
        Some(Command::Federation(command)) => federation::run(cli, command),
        Some(Command::Media(command)) => media::run(cli, command),
        Some(Command::Reports(command)) => reports::run(cli, command),
        Some(Command::Config(ConfigCommand::Check)) => {
            let path = cli.existing_config()?;
            cli.load(&path)?;
            Ok(writeln!(io::stdout(), "{} is fine", path.display())?)
        }
        Some(Command::Config(ConfigCommand::Example)) => {
            Ok(io::stdout().write_all(render::example().as_bytes())?)
        }
    }
}

impl Cli {
    fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }

    /// The configuration's path, if there is such a file.
    fn existing_config(&self) -> Result<PathBuf, CliError> {
        let path = self.config_path();
        if path.exists() {
            return Ok(path);
        }
        Err(CliError::Told(format!(
            "there is no {}: start the server once to have it written, or name another by --config",
            path.display()
        )))
    }

    fn load(&self, path: &Path) -> Result<Config, ConfigError> {
        self.load_from(Some(path))
    }

    /// The configuration, from the environment alone if there is no file.
    fn load_from(&self, path: Option<&Path>) -> Result<Config, ConfigError> {
        // Variables that are not Unicode cannot be overrides.
        let environment = env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let mut config = config::load(path, environment)?;
        if let Some(data) = &self.data {
            config.server.data_dir.clone_from(data);
        }
        Ok(config)
    }
}

fn serve(cli: &Cli) -> Result<(), CliError> {
    let path = if cli.config.is_some() { cli.existing_config()? } else { cli.config_path() };
    let written = write_config_if_absent(&path)?;
    let config = cli.load(&path)?;
    telemetry::init(&config.log);
    raise_file_limit();
    // Ends after the server.
    let background = background::runtime()?;
    let options = StartOptions {
        replace_lost_key: cli.replace_lost_key,
        background: Some(background.handle().clone()),
        ..StartOptions::default()
    };
    runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let running = start(config.clone(), options).await?;
        greet(&config, &path, written, &running)?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hang_up.recv() => running.reload_certificate().await,
            }
        }
        tracing::info!("stopping");
        running.shutdown().await?;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Two servers and a conversation, which needs neither configuration nor data.
fn show_demo() -> Result<(), CliError> {
    // The story is told on standard output; what goes wrong is in it.
    telemetry::init(&LogConfig { level: "error".to_owned(), ..LogConfig::default() });
    Ok(runtime()?.block_on(demo::run(&mut io::stdout()))?)
}

/// Writes the commented configuration unless there is one. Was it written?
fn write_config_if_absent(path: &Path) -> io::Result<bool> {
    // Private, because secrets may be put into it.
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match opened {
        Ok(mut file) => {
            file.write_all(render::example().as_bytes())?;
            file.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
        }
    }
}

/// Tells whoever started the server what to do next.
fn greet(config: &Config, path: &Path, written: bool, running: &RunningServer) -> io::Result<()> {
    let program = env::args().next().unwrap_or_else(|| "hearth".to_owned());
    let base_url = config.client.base_url.clone().unwrap_or_else(|| local_url(running));
    let shown = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = &config.server.name;
    let mut out = io::stdout().lock();
    writeln!(out, "\nHearth {} serves {name}.\n", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  Homeserver address for clients   {base_url}")?;
    writeln!(out, "  Make a user                      {program} user create NAME")?;
    if config.federation.enabled && name != "localhost" {
        // To be asked from elsewhere too, but what is wrong here is wrong everywhere.
        writeln!(out, "  Can other servers reach it?      {program} federation check {name}")?;
    }
    let note = if written { " (written just now: every setting, commented)" } else { "" };
    writeln!(out, "  Configuration                    {}{note}", shown(path).display())?;
    writeln!(
        out,
        "  Data                             {}",
        shown(&config.server.data_dir).display()
    )?;
    if name == "localhost" {
        writeln!(
            out,
            "\n  \"localhost\" is a name for trying Hearth out. It is part of every user and room, so to \
             keep\n  a server, stop this one, set `name` in [server], and delete the data folder first."
        )?;
    }
    writeln!(out, "\nStop with Ctrl-C.\n")
}

/// An address under which this machine's own clients reach the server.
fn local_url(running: &RunningServer) -> String {
    let address = running.address();
    let scheme = if running.addresses().is_empty() { "https" } else { "http" };
    match address.ip() {
        ip if ip.is_unspecified() => format!("{scheme}://localhost:{}", address.port()),
        _ => format!("{scheme}://{address}"),
    }
}

/// Lets the process open as many files as the system allows: each connection is one.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "cannot raise the limit of open files");
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().max_blocking_threads(MAX_BLOCKING_THREADS).build()
}

fn user(cli: &Cli, command: &UserCommand) -> Result<(), CliError> {
    let config = cli.load(&cli.existing_config()?)?;
    let (request, generated) = admin_request(command)?;
    let AdminAnswer::User(user_id) = administer(&config, request)? else {
        return Err(CliError::Told("the server answered another question".to_owned()));
    };
    let mut out = io::stdout();
    let done = match command {
        UserCommand::Create { .. } => "created",
        UserCommand::Password { .. } => "has a new password",
        UserCommand::Deactivate { .. } => "is deactivated",
    };
    writeln!(out, "{user_id} {done}")?;
    if let Some(password) = generated {
        writeln!(out, "Password: {password}")?;
    }
    Ok(())
}

/// Has the running server carry out a command, or carries it out on the store itself if none runs.
fn administer(config: &Config, request: AdminRequest) -> Result<AdminAnswer, CliError> {
    let socket = config.admin_socket_path();
    let asked = admin::ask_running_server(&socket, &request).map_err(|error| {
        CliError::Told(format!("cannot ask the running server at {}: {error}", socket.display()))
    })?;
    let reply = match asked {
        Some(reply) => reply,
        None => runtime()?.block_on(execute_here(config, request))?,
    };
    reply.map_err(CliError::Told)
}

/// Carries a command out on the store itself, since no server runs.
async fn execute_here(
    config: &Config,
    request: AdminRequest,
) -> Result<admin::AdminReply, CliError> {
    let options = StartOptions::default();
    let parts = Parts::open(config, &options).await.map_err(|error| match error {
        OpenError::Store(hearth_storage::StoreError::Locked(_)) => CliError::Told(format!(
            "the store is open in another process, which does not answer on {}",
            config.admin_socket_path().display()
        )),
        error => CliError::Open(error),
    })?;
    let federation = match request {
        AdminRequest::Destinations => start::federation(config, &options, &parts).await,
        _ => Ok(None),
    };
    let reply = match federation {
        Ok(federation) => {
            let server = Administered { parts: parts.clone(), federation };
            Ok(admin::execute(&server, request).await)
        }
        Err(error) => Err(CliError::Open(error)),
    };
    parts.close().await?;
    reply
}

/// The command as the server takes it, and the password if it was made up.
fn admin_request(command: &UserCommand) -> io::Result<(AdminRequest, Option<String>)> {
    let (request, generated) = match command {
        UserCommand::Create { user, admin, password } => {
            let (password, generated) = password.obtain()?;
            let request = AdminRequest::CreateUser { user: user.clone(), password, admin: *admin };
            (request, generated)
        }
        UserCommand::Password { user, keep_sessions, password } => {
            let (password, generated) = password.obtain()?;
            let keep_sessions = *keep_sessions;
            let request = AdminRequest::SetPassword { user: user.clone(), password, keep_sessions };
            (request, generated)
        }
        UserCommand::Deactivate { user, erase } => {
            (AdminRequest::DeactivateUser { user: user.clone(), erase: *erase }, None)
        }
    };
    Ok((request, generated))
}

impl PasswordArgs {
    /// The password, and once more as text if it was made up and must be shown.
    fn obtain(&self) -> io::Result<(Secret, Option<String>)> {
        if self.generate {
            let password = password::generate();
            return Ok((Secret::new(password.clone()), Some(password)));
        }
        let password =
            if self.password_stdin { password::from_stdin()? } else { password::prompt()? };
        Ok((Secret::new(password), None))
    }
}
