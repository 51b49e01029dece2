//! HTTPS on the real binary, with the certificate of a private authority.

#[cfg(target_os = "linux")]
use std::net::Ipv4Addr;
use std::{io, sync::Arc};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rcgen::generate_simple_self_signed;
use ruma::{
    CanonicalJsonObject,
    serde::Base64,
    signatures::{PublicKeyMap, verify_json},
};
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    command::{Home, block_on},
    federation::{configure, free_port},
};

/// Shakes hands with whoever listens on this port, as with this host, trusting this authority only.
async fn shake(
    port: u16,
    host: &'static str,
    authority: CertificateDer<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config)).connect(host.try_into().unwrap(), stream).await
}

/// `GET` on a connection of its own: status and body.
async fn get(stream: TlsStream<TcpStream>, path: &str) -> (StatusCode, Value) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    (head.status, serde_json::from_slice(&body).unwrap())
}

#[test]
fn clients_and_servers_are_answered_where_the_configuration_says() {
    let home = Home::federating();
    let port = free_port();
    configure(&home, port);
    let authority = CertificateDer::from_pem_file(home.path("ca.pem")).unwrap();
    let server = home.serve();
    block_on(async {
        let ask = async |path| {
            let stream = shake(port, "localhost", authority.clone()).await.unwrap();
            let (status, answer) = get(stream, path).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer
        };
        let answer = ask("/_matrix/federation/v1/version").await;
        assert_eq!(answer["server"]["name"], "Hearth");
        assert!(ask("/_matrix/client/versions").await["versions"].is_array());
        let keys = ask("/_matrix/key/v2/server").await;
        assert_eq!(keys["server_name"], json!(format!("localhost:{port}")));
        assert_signed(&keys);

        // The certificate is for nobody else, and from nobody else.
        assert!(shake(port, "elsewhere.example", authority.clone()).await.is_err());
        let stranger = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        assert!(shake(port, "localhost", stranger.cert.der().clone()).await.is_err());
        // Nothing is said in the open.
        let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        drop(plain.read_to_end(&mut answer).await);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    });
    server.stop(Signal::TERM);
}

/// A server's keys are signed with those that they tell of.
fn assert_signed(keys: &Value) {
    let name = keys["server_name"].as_str().unwrap().to_owned();
    let told = keys["verify_keys"].as_object().unwrap();
    let told = told.iter().map(|(id, key)| {
        let key: Base64 = serde_json::from_value(key["key"].clone()).unwrap();
        (id.clone(), key)
    });
    let known = PublicKeyMap::from([(name, told.collect())]);
    let object: CanonicalJsonObject = serde_json::from_value(keys.clone()).unwrap();
    verify_json(&known, &object).unwrap();
}

/// On Linux all of 127.0.0.0/8 is this machine: each run of the test takes an address of its own.
#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_name_has_no_port_is_reached_at_8448() {
    let host = std::process::id() & 0xff_ffff;
    let host = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() | host);
    let (home, name) = (Home::federating(), host.to_string());
    crate::federation::configure_as(&home, &name, &name, &format!("{name}:8448"));
    let server = home.serve();
    let text = home.run_ok(&["federation", "check", &name]);
    assert!(text.contains(&format!("ok       {name}:8448")), "{text}");
    assert!(text.contains(&format!("{name} can be reached from here.")), "{text}");
    server.stop(Signal::TERM);
}
