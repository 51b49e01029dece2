use std::{fs, path::PathBuf};

use axum::routing::get;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

fn config() -> ListenConfig {
    ListenConfig {
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        header_timeout_s: 1,
        ..ListenConfig::default()
    }
}

async fn serve(config: &ListenConfig, router: Router) -> Listeners {
    bind(config).await.unwrap().serve(config, router)
}

fn who() -> Router {
    Router::new().route(
        "/who",
        get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
    )
}

async fn connect(listeners: &Listeners) -> TcpStream {
    TcpStream::connect(listeners.addresses()[0]).await.unwrap()
}

async fn ask(stream: &mut (impl AsyncWrite + Unpin), path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until this text has come.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).await.unwrap();
        assert!(length > 0, "the connection ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.is_ok_and(|_| rest.is_empty())
}

#[tokio::test]
async fn requests_know_their_peer_and_share_a_connection() {
    let listeners = serve(&config(), who()).await;
    let mut stream = connect(&listeners).await;
    let own_address = stream.local_addr().unwrap().to_string();
    for _ in 0..2 {
        ask(&mut stream, "/who").await;
        read_until(&mut stream, &own_address).await;
    }
    listeners.close().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let config = ListenConfig { max_connections: 1, ..config() };
    let listeners = serve(&config, who()).await;
    let mut first = connect(&listeners).await;
    ask(&mut first, "/who").await;
    read_until(&mut first, "127.0.0.1").await;
    let mut second = connect(&listeners).await;
    ask(&mut second, "/who").await;
    // The place is taken: the acceptor waits for it, and the second connection is not served.
    assert!(second.try_read(&mut [0; 1]).is_err());
    drop(first);
    read_until(&mut second, "127.0.0.1").await;
    listeners.close().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let listeners = serve(&config(), who()).await;
    let mut silent = connect(&listeners).await;
    let mut slow = connect(&listeners).await;
    slow.write_all(b"GET /who HTTP/1.1\r\nhost: te").await.unwrap();
    assert!(is_closed(&mut silent).await);
    assert!(is_closed(&mut slow).await);
    listeners.close().await;
}

#[tokio::test]
async fn closing_lets_running_requests_end_and_accepts_no_more() {
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&started), Arc::clone(&go_on));
    let slow = get(|| async move {
        tell.notify_one();
        wait.notified().await;
        "at last"
    });
    let listeners = serve(&config(), Router::new().route("/slow", slow)).await;
    let address = listeners.addresses()[0];
    let mut stream = connect(&listeners).await;
    ask(&mut stream, "/slow").await;
    started.notified().await;

    let stop = listeners.stop.clone();
    let closing = tokio::spawn(listeners.close());
    stop.cancelled().await;
    go_on.notify_one();
    read_until(&mut stream, "at last").await;
    closing.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn closing_gives_up_on_requests_that_do_not_end() {
    let never = get(std::future::pending::<&'static str>);
    let config = ListenConfig { shutdown_timeout_s: 0, ..config() };
    let listeners = serve(&config, Router::new().route("/never", never)).await;
    let mut stream = connect(&listeners).await;
    ask(&mut stream, "/never").await;
    listeners.close().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = ListenConfig { addresses: vec![address], ..config() };
    let error = bind(&config).await.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

/// Files with a certificate for `localhost`.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another certificate; what clients must trust to accept it.
    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(self.path("chain.pem"), made.cert.pem()).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    fn config(&self) -> ListenConfig {
        ListenConfig {
            addresses: Vec::new(),
            tls_addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            tls_certificate: Some(self.path("chain.pem")),
            tls_key: Some(self.path("key.pem")),
            ..config()
        }
    }
}

/// Shakes hands, trusting this certificate only.
async fn shake(
    listeners: &Listeners,
    trusted: &CertificateDer<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(listeners.tls_addresses()[0]).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

#[tokio::test]
async fn tls_serves_the_same_over_http_1() {
    let files = Files::new();
    let trusted = files.renew();
    let listeners = serve(&files.config(), who()).await;
    let mut stream = shake(&listeners, &trusted).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let own_address = stream.get_ref().0.local_addr().unwrap().to_string();
    ask(&mut stream, "/who").await;
    read_until(&mut stream, &own_address).await;

    // Whoever does not shake hands is not served.
    let mut plain = TcpStream::connect(listeners.tls_addresses()[0]).await.unwrap();
    ask(&mut plain, "/who").await;
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    listeners.close().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let files = Files::new();
    let old = files.renew();
    let listeners = serve(&files.config(), who()).await;
    let mut kept = shake(&listeners, &old).await.unwrap();
    let new = files.renew();
    listeners.reload_certificate().await;
    assert!(shake(&listeners, &old).await.is_err());
    shake(&listeners, &new).await.unwrap();
    // Connections that are open stay open.
    ask(&mut kept, "/who").await;
    read_until(&mut kept, "127.0.0.1").await;
    listeners.close().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_does_not_hold_the_stop_up() {
    let files = Files::new();
    let listeners = serve(&files.config(), who()).await;
    let mut silent = TcpStream::connect(listeners.tls_addresses()[0]).await.unwrap();
    silent.write_all(b"\x16").await.unwrap();
    let closing = timeout(Duration::from_secs(5), listeners.close());
    closing.await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() {
    let files = Files::new();
    fs::remove_file(files.path("key.pem")).unwrap();
    let error = bind(&files.config()).await.err().unwrap().to_string();
    assert!(error.contains("key.pem"), "{error}");
}
