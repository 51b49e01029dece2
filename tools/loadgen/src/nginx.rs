//! An nginx on loopback, to compare with: it gives and takes files of one folder, as fast as it can.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::connection::Target;
use crate::serve;
use crate::world::Failure;

/// The folder of what it serves, below its own.
const FILES: &str = "files";
/// A file that is there from the start: that it is served shows that nginx answers.
const FIRST_FILE: &str = "first";

/// A running nginx; stopped and its folder deleted when dropped.
pub(crate) struct Nginx {
    // Held for its end.
    _child: Child,
    // Held for its deletion.
    _folder: TempDir,
    target: Arc<Target>,
}

impl Nginx {
    /// Starts `binary` in a fresh folder below `parent` (or the system's temporary folder) and waits until it answers.
    pub(crate) async fn start(binary: &Path, parent: Option<&Path>) -> Result<Self, Failure> {
        let folder = serve::folder(parent)?;
        let port = serve::free_port()?;
        prepare(folder.path(), port)
            .map_err(|error| Failure::Server(format!("cannot prepare nginx: {error}")))?;
        let mut child = Command::new(binary)
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::Server(format!("cannot start {}: {error}", binary.display()))
            })?;
        let target = Target::parse(&format!("http://127.0.0.1:{port}")).map_err(Failure::Server)?;
        let target = Arc::new(target);
        serve::wait_for_answer(&mut child, &target, &format!("/{FIRST_FILE}")).await?;
        Ok(Self { _child: child, _folder: folder, target })
    }

    /// Its address.
    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

fn prepare(folder: &Path, port: u16) -> std::io::Result<()> {
    let files = folder.join(FILES);
    std::fs::create_dir(&files)?;
    std::fs::write(files.join(FIRST_FILE), "here")?;
    std::fs::write(folder.join("nginx.conf"), configuration_text(port))
}

/// One process, so that its end is the end of all; what it needs is in its own folder, so that anybody can run it. Files
/// go out with `sendfile`, and what is put is moved into place when it is whole.
fn configuration_text(port: u16) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_max_body_size 0;
    client_body_temp_path incoming;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        root {FILES};
        location / {{ dav_methods PUT; }}
    }}
}}
"
    )
}
