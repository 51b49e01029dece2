//! Servers that share a room: from a client of one to a client of the other.
//!
//! Each has a certificate of a private authority, and they speak TLS over loopback. A third server is in
//! the room and has ended: who sends must not be held up by it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::delivery;
use super::open_loop::{self, Plan};
use crate::client::{Account, Client};
use crate::connection::Target;
use crate::paths::Room;
use crate::process;
use crate::register;
use crate::serve::{Served, free_port};
use crate::world::{Doing as _, Failure, World};

/// Connections that send.
const SENDERS: u32 = 8;

/// Measures each rate that the command line asks for, in one room.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let authority = Authority::new().map_err(|error| {
        Failure::Server(format!("cannot make a certificate authority: {error}"))
    })?;
    let here = Peer::start(world, &authority).await?;
    let there = Peer::start(world, &authority).await?;
    world.move_to(Target::parse(here.served.url()).map_err(Failure::Server)?, here.served.pid());
    let (room, senders) = room(world).await?;
    let receiver = there.joined(world, &room, &here.name).await?;
    let gone = Peer::start(world, &authority).await?;
    gone.joined(world, &room, &here.name).await?;
    drop(gone);
    for per_second in world.options.federation_rates.clone() {
        let plan = Plan {
            rooms: vec![room.clone()],
            senders: senders.clone(),
            receivers: vec![Arc::clone(&receiver)],
            receivers_at: Arc::clone(&there.target),
            per_second,
        };
        let usage = || there.served.pid().and_then(process::usage);
        let before = usage();
        let outcome = open_loop::run(world, plan).await?;
        let case = format!("{per_second}/s from one server to another, a third one gone");
        let mut row = delivery::row("federation", case, &outcome);
        if let (Some(before), Some(after)) = (before, usage()) {
            let cpu_ms = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1_000.0;
            let count = f64::from(u32::try_from(outcome.deliveries.latency.count()).unwrap_or(1));
            row = row.metric("receiving server cpu per message", "ms", cpu_ms / count.max(1.0));
        }
        world.report.add(row);
    }
    Ok(())
}

/// A room on the first server and the accounts that send there.
async fn room(world: &mut World) -> Result<(Room, Vec<Arc<Account>>), Failure> {
    let senders = world.accounts(SENDERS).await?;
    let Some((owner, others)) = senders.split_first() else {
        return Err(Failure::Server("a room needs a member".to_owned()));
    };
    let room = world.client().create_room(owner, "Load of two servers").await;
    let room = room.doing("creating a room")?;
    world.join_all(others.iter().map(|other| (Arc::clone(other), room.clone())).collect()).await?;
    Ok((room, senders))
}

/// A server that federates.
struct Peer {
    served: Served,
    target: Arc<Target>,
    name: String,
}

impl Peer {
    async fn start(world: &World, authority: &Authority) -> Result<Self, Failure> {
        let Some(binary) = &world.options.serve else {
            return Err(Failure::Server("federation: needs --serve".to_owned()));
        };
        let port = free_port()?;
        let name = format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let parent = world.options.serve_in.as_deref();
        let more = |folder: &Path| authority.equip(folder, &name);
        let served = Served::start_as(binary, parent, &name, more).await?;
        let target = Arc::new(Target::parse(served.url()).map_err(Failure::Server)?);
        Ok(Self { served, target, name })
    }

    /// A new user of this server, joined to `room` by way of `via`.
    async fn joined(
        &self,
        world: &mut World,
        room: &Room,
        via: &str,
    ) -> Result<Arc<Account>, Failure> {
        let name = world.next_marker();
        let mut client = Client::new(&self.target);
        let registration = world.options.registration();
        let account = register::register(&mut client, name.trim_end_matches('-'), &registration);
        let account = account.await.doing("registering a user of another server")?;
        let joined = client.join_via(&account, room, via).await;
        joined.doing("joining by way of another server")?;
        Ok(Arc::new(account))
    }
}

/// A private certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// Puts a certificate into a server's folder. Returns the configuration that uses it.
    fn equip(&self, folder: &Path, name: &str) -> std::io::Result<String> {
        let (certificate, key) = self.certificate().map_err(std::io::Error::other)?;
        let path = |file: &str| folder.join(file);
        std::fs::write(path("ca.pem"), self.0.pem())?;
        std::fs::write(path("cert.pem"), certificate)?;
        std::fs::write(path("key.pem"), key)?;
        // A JSON string is a basic string of TOML.
        let quoted = |file: &str| serde_json::Value::from(path(file).to_string_lossy()).to_string();
        Ok(format!(
            "tls_addresses = [\"{name}\"]\ntls_certificate = {}\ntls_key = {}\n\n\
             [federation]\nallow_networks = [\"127.0.0.0/8\"]\nca_files = [{}]\n",
            quoted("cert.pem"),
            quoted("key.pem"),
            quoted("ca.pem"),
        ))
    }

    fn certificate(&self) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let names = vec![IpAddr::from(Ipv4Addr::LOCALHOST).to_string()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}
