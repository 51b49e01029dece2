//! A push gateway on loopback that takes everything and counts it. It has a thread of its own, which steps back behind the
//! senders that are measured: elsewhere it is another machine, and takes nothing from them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::world::Failure;

/// How far its thread steps back (`nice`): as far as this server's pushers do.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// A running gateway; it ends when it is dropped.
pub(crate) struct Gateway {
    address: SocketAddr,
    taken: Arc<AtomicU64>,
    // Held: its end is the gateway's.
    _stop: oneshot::Sender<()>,
}

impl Gateway {
    /// Starts to listen on a free port.
    pub(crate) fn start() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Server(format!("push gateway: {error}"));
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let taken = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let counter = Arc::clone(&taken);
        thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || {
                // On Linux a thread has a nice value of its own. If it stays as it is, the senders only suffer more.
                #[cfg(target_os = "linux")]
                rustix::process::nice(NICENESS).ok();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, counter) => (),
                        // Never sent: it is dropped.
                        _ = stopped => (),
                    }
                });
            })
            .map_err(failed)?;
        Ok(Self { address, taken, _stop: stop })
    }

    /// Where servers send notifications.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/_matrix/push/v1/notify", self.address)
    }

    /// How many notifications came so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Accepts as many connections as the measured server opens; all end with this.
async fn serve(listener: std::net::TcpListener, taken: Arc<AtomicU64>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let taken = Arc::clone(&taken);
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(request, Arc::clone(&taken)));
                    http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
            Some(_) = connections.join_next() => (),
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    taken: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // The measured server bounds what it sends.
    if request.into_body().collect().await.is_ok() {
        taken.fetch_add(1, Ordering::Relaxed);
    }
    let mut response = Response::new(Full::new(Bytes::from_static(br#"{"rejected":[]}"#)));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::connection::{Connection, Target};

    #[tokio::test]
    async fn takes_and_counts_notifications() {
        let gateway = Gateway::start().unwrap();
        let url = gateway.url();
        let (base, path) = url.split_at(url.find("/_matrix").unwrap());
        let target = Arc::new(Target::parse(base).unwrap());
        let mut connection = Connection::new(target);
        for _ in 0..3 {
            let body = Some(Bytes::from_static(b"{}"));
            let answer = connection.request(Method::POST, path, None, body).await.unwrap();
            assert_eq!(&answer[..], br#"{"rejected":[]}"#);
        }
        assert_eq!(gateway.taken(), 3);
    }
}
