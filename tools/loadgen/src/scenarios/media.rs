//! Up- and download of files, beside what nginx makes of the same files on the same machine, and the memory that a large
//! one takes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::client::Account;
use crate::connection::{Connection, RequestError, Target};
use crate::nginx::Nginx;
use crate::paths;
use crate::process::Reading;
use crate::report::{Row, as_f64};
use crate::scan;
use crate::world::{Doing as _, Failure, Tally, World};

/// Bytes of the file whose transfer is timed.
const FILE_BYTES: usize = 10_000_000;
/// Bytes of the file during whose transfer the server's memory is watched.
const LARGE_BYTES: usize = 100_000_000;
/// Most transfers in one direction.
const MAX_TRANSFERS: u64 = 100_000;
/// The stream of random numbers that the files are of.
const RANDOM_STREAM: u32 = 1;

/// Measures with one connection to each server.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let accounts = world.accounts(1).await?;
    let [user] = accounts.as_slice() else { return Ok(()) };
    let nginx = match &world.options.nginx {
        Some(binary) => Some(Nginx::start(binary, world.options.serve_in.as_deref()).await?),
        None => None,
    };
    let mut files = vec![0; LARGE_BYTES];
    world.rng(RANDOM_STREAM).fill(&mut files[..]);
    let large = Bytes::from(files);
    let file = large.slice(..FILE_BYTES);

    let mut ours = Side::ours(&world.target, user);
    let mut theirs = nginx.as_ref().map(|nginx| Side::nginx(nginx.target()));
    for side in std::iter::once(&mut ours).chain(&mut theirs) {
        side.prove(&file).await?;
    }
    compare(world, "upload", &mut ours, theirs.as_mut(), Some(&file)).await;
    compare(world, "download", &mut ours, theirs.as_mut(), None).await;
    drop(nginx);
    memory(world, &mut ours, large).await
}

/// A server that takes a file and gives it.
struct Side {
    connection: Connection,
    authorization: Option<HeaderValue>,
    /// How and where the file is put.
    upload: (Method, &'static str),
    /// Where it is had.
    download: String,
    /// How many bytes it then has.
    bytes: u64,
}

impl Side {
    /// The server that is measured.
    fn ours(target: &Arc<Target>, user: &Account) -> Self {
        Self {
            connection: Connection::new(Arc::clone(target)),
            authorization: Some(user.authorization().clone()),
            upload: (Method::POST, paths::UPLOAD),
            download: String::new(),
            bytes: 0,
        }
    }

    fn nginx(target: &Arc<Target>) -> Self {
        Self {
            connection: Connection::new(Arc::clone(target)),
            authorization: None,
            upload: (Method::PUT, "/file"),
            download: "/file".to_owned(),
            bytes: 0,
        }
    }

    /// Uploads a file.
    async fn put(&mut self, file: Bytes) -> Result<Bytes, RequestError> {
        let (method, target) = self.upload.clone();
        self.connection.request(method, target, self.authorization.as_ref(), Some(file)).await
    }

    /// Uploads a file, which is the one that is downloaded from now on.
    async fn replace(&mut self, file: Bytes) -> Result<(), RequestError> {
        self.bytes = file.len() as u64;
        let answer = self.put(file).await?;
        if self.authorization.is_some() {
            let uri = scan::string_field(&answer, "content_uri");
            let place = uri.and_then(|uri| uri.strip_prefix("mxc://"));
            self.download = paths::download(place.ok_or(RequestError::Missing("content_uri"))?);
        }
        Ok(())
    }

    /// Downloads the file and drops it as it comes.
    async fn get(&mut self) -> Result<(), RequestError> {
        let counted = self.connection.count(&self.download, self.authorization.as_ref()).await?;
        if counted == self.bytes {
            return Ok(());
        }
        Err(RequestError::Body(format!("{counted} bytes of {}", self.bytes)))
    }

    /// Makes sure that what is downloaded is what was uploaded.
    async fn prove(&mut self, file: &Bytes) -> Result<(), Failure> {
        self.replace(file.clone()).await.doing("uploading a file")?;
        let authorization = self.authorization.as_ref();
        let read = self.connection.request(Method::GET, &self.download, authorization, None).await;
        if read.doing("downloading a file")? == *file {
            return Ok(());
        }
        Err(Failure::Server("a download is not what was uploaded".to_owned()))
    }

    /// One transfer: up if there is a file, else down.
    async fn transfer(&mut self, file: Option<&Bytes>, tally: &mut Tally) {
        let begun = Instant::now();
        let transferred = match file {
            Some(file) => self.put(file.clone()).await.map(drop),
            None => self.get().await,
        };
        tally.note(begun, transferred);
    }
}

/// Transfers the file to or from both servers in turns, so that whatever else the machine does meets both.
async fn compare(
    world: &mut World,
    direction: &str,
    ours: &mut Side,
    mut theirs: Option<&mut Side>,
    file: Option<&Bytes>,
) {
    let (mut own, mut other) = (Tally::default(), Tally::default());
    let (begun, before) = (Instant::now(), world.usage());
    while begun.elapsed() < world.options.length()
        && own.latency.count() < MAX_TRANSFERS
        && !own.hopeless()
    {
        ours.transfer(file, &mut own).await;
        if let Some(theirs) = &mut theirs {
            theirs.transfer(file, &mut other).await;
        }
    }
    let after = world.usage();
    let case = format!("10 MB, {direction}");
    let server = |reading: Reading| Reading { generator: None, ..reading };
    let generator = |reading: Reading| Reading { server: None, ..reading };
    let (transfers, all) = (own.latency.count(), own.latency.count() + other.latency.count());
    // The generator transfers both servers' files.
    let row = row(case.clone(), &own)
        .usage(server(before), server(after), transfers, "file")
        .usage(generator(before), generator(after), all, "file");
    world.report.add(row);
    if theirs.is_some() {
        add_ratio(world, &case, &own, &other);
    }
}

fn add_ratio(world: &mut World, case: &str, own: &Tally, other: &Tally) {
    world.report.add(row(format!("{case}, nginx"), other));
    let Some((own, other)) = own.latency.mean_ms().zip(other.latency.mean_ms()) else { return };
    let row = Row::new("media", format!("{case}, the server to nginx"));
    world.report.add(row.metric("rate ratio", "", other / own.max(1e-6)));
}

fn row(case: String, tally: &Tally) -> Row {
    let mut row = Row::new("media", case);
    if let Some(mean_ms) = tally.latency.mean_ms() {
        let megabytes = as_f64(FILE_BYTES as u64) / 1e6;
        row = row.metric("rate", "MB/s", megabytes * 1_000.0 / mean_ms.max(1e-6));
    }
    row.latency("", &tally.latency).failures(tally.failed, tally.first_error.as_deref())
}

/// Transfers the large file once in both directions, and tells how much memory the server had at most meanwhile.
async fn memory(world: &mut World, ours: &mut Side, large: Bytes) -> Result<(), Failure> {
    for upload in [true, false] {
        let case = if upload { "100 MB, upload" } else { "100 MB, download" };
        let before = world.usage().server;
        let watched = world.forget_peak();
        let begun = Instant::now();
        if upload {
            ours.replace(large.clone()).await.doing("uploading a large file")?;
        } else {
            ours.get().await.doing("downloading a large file")?;
        }
        let mut row = Row::new("media", case);
        row = row.metric("took", "ms", begun.elapsed().as_secs_f64() * 1_000.0);
        if let Some((before, peak)) = before.zip(world.peak_bytes().filter(|_| watched)) {
            let mib = |bytes: u64| as_f64(bytes) / 1024.0 / 1024.0;
            row = row.metric("server memory before", "MiB", mib(before.resident_bytes)).metric(
                "server memory at most",
                "MiB",
                mib(peak),
            );
        }
        world.report.add(row);
    }
    Ok(())
}
