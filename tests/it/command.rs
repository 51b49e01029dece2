//! Running the binary in a folder of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A working directory with a server's configuration and data.
pub(crate) struct Home {
    folder: TempDir,
    /// What is set beyond the configuration.
    environment: BTreeMap<&'static str, String>,
}

/// A server that runs as a process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// What it printed on its start.
    pub(crate) greeting: String,
}

impl Home {
    /// One whose servers take any free port, hash passwords cheaply, and speak with no other server.
    pub(crate) fn new() -> Self {
        let environment = BTreeMap::new();
        let new = Self { folder: tempfile::tempdir().unwrap(), environment };
        new.with("HEARTH_LISTEN__ADDRESSES", "127.0.0.1:0")
            .with("HEARTH_USERS__ARGON2__MEMORY_KIB", "8")
            .with("HEARTH_FEDERATION__ENABLED", "false")
    }

    /// One whose servers speak with others.
    pub(crate) fn federating() -> Self {
        Self::new().federate()
    }

    /// The same one, with servers that speak with others from now on.
    pub(crate) fn federate(self) -> Self {
        self.with("HEARTH_FEDERATION__ENABLED", "true")
    }

    /// The same one with another setting.
    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.insert(variable, value.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The command, in this folder and with these settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; what it printed.
    pub(crate) fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; what it said.
    pub(crate) fn run_err(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        stderr(&output)
    }

    /// Runs a command that must succeed with this on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a server and waits until it serves.
    pub(crate) fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, arguments: &[&str]) -> Server {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        while !greeting.contains("Stop with Ctrl-C") {
            if output.read_line(&mut greeting).unwrap() == 0 {
                let mut error = String::new();
                child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("the server ended: {error}");
            }
        }
        Server { child, greeting }
    }
}

impl Server {
    /// The address that it tells to give to clients.
    pub(crate) fn base(&self) -> String {
        let line = self.greeting.lines().find(|line| line.contains("address for clients")).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    }

    /// Asks it to stop; what it logged.
    pub(crate) fn stop(mut self, signal: Signal) -> String {
        self.signal(signal);
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Kills it on the spot.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already if the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Speaks HTTP while nothing else happens.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
