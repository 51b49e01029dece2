//! Starting the server that is measured, in a folder of its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::connection::{Connection, Target};
use crate::paths;
use crate::world::Failure;

/// How long the server may take to answer its first request.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two attempts to reach it.
const START_PAUSE: Duration = Duration::from_millis(50);

/// A running server; stopped and its folder deleted when dropped.
pub(crate) struct Served {
    child: Child,
    // Held for its deletion.
    _folder: TempDir,
    url: String,
}

impl Served {
    /// Starts `binary` with a fresh data folder below `parent` (or the system's temporary folder) and waits until it answers.
    pub(crate) async fn start(binary: &Path, parent: Option<&Path>) -> Result<Self, Failure> {
        Self::start_as(binary, parent, "localhost", |_| {
            Ok("[federation]\nenabled = false\n".to_owned())
        })
        .await
    }

    /// The same under a name. `more` makes the rest of the configuration, which begins in the table `listen`, and what it needs in
    /// the folder.
    pub(crate) async fn start_as(
        binary: &Path,
        parent: Option<&Path>,
        name: &str,
        more: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<Self, Failure> {
        let folder = folder(parent)?;
        let port = free_port()?;
        let configuration = folder.path().join("hearth.toml");
        more(folder.path())
            .map(|more| format!("{}{more}", configuration_text(folder.path(), name, port)))
            .and_then(|text| std::fs::write(&configuration, text))
            .map_err(|error| Failure::Server(format!("cannot write the configuration: {error}")))?;
        let mut child = Command::new(binary)
            .arg("--config")
            .arg(&configuration)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::Server(format!("cannot start {}: {error}", binary.display()))
            })?;
        let url = format!("http://127.0.0.1:{port}");
        let target = Arc::new(Target::parse(&url).map_err(Failure::Server)?);
        wait_for_answer(&mut child, &target, paths::VERSIONS).await?;
        Ok(Self { child, _folder: folder, url })
    }

    /// The server's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

/// A fresh folder below `parent`, or the system's temporary folder.
pub(crate) fn folder(parent: Option<&Path>) -> Result<TempDir, Failure> {
    let made = parent.map_or_else(TempDir::new, TempDir::new_in);
    made.map_err(|error| Failure::Server(format!("cannot make a folder: {error}")))
}

/// Waits until a server that was started answers at this path.
pub(crate) async fn wait_for_answer(
    child: &mut Child,
    target: &Arc<Target>,
    path: &str,
) -> Result<(), Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut connection = Connection::new(Arc::clone(target));
    while connection.request(Method::GET, path, None, None).await.is_err() {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure::Server(format!("the server ended while starting: {status}")));
        }
        if Instant::now() > deadline {
            return Err(Failure::Server(format!(
                "the server did not answer within {START_TIMEOUT:?}"
            )));
        }
        tokio::time::sleep(START_PAUSE).await;
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, Failure> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", 0));
    let address = bound.and_then(|listener| listener.local_addr());
    let failed = |error| Failure::Server(format!("no free port: {error}"));
    Ok(address.map_err(failed)?.port())
}

/// A configuration without rate limits and quotas, where anybody may register, hashing a password costs next to nothing,
/// and the generator can be a push gateway.
fn configuration_text(folder: &Path, name: &str, port: u16) -> String {
    let data_dir = folder.join("data");
    format!(
        r#"[server]
name = "{name}"
data_dir = {data_dir}

[log]
level = "warn"

[users]
open_registration = true

[users.argon2]
memory_kib = 8
iterations = 1

[http.rate_limits]
enabled = false

[media]
user_quota_bytes = 0

[push]
allow_http = true
allow_networks = ["127.0.0.0/8"]

[listen]
addresses = ["127.0.0.1:{port}"]
"#,
        // A JSON string is a basic string of TOML.
        data_dir = serde_json::Value::from(data_dir.to_string_lossy()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_folder_and_port() {
        let text = configuration_text(Path::new("/tmp/a \"b\""), "here:1", 4321);
        assert!(text.contains(r#"name = "here:1""#), "{text}");
        assert!(text.contains(r#"data_dir = "/tmp/a \"b\"/data""#), "{text}");
        assert!(text.contains(r#"addresses = ["127.0.0.1:4321"]"#), "{text}");
    }
}
