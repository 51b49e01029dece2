//! Bytes in a bucket that speaks the protocol of S3.
//!
//! What is uploaded is first written whole into a folder of this machine, and hashed, then carried to where it is read.
//! So the bucket sees finished content under its last name only, a small file costs one request, and what an upload left
//! unfinished is in the folder, which every start empties.

mod config;
mod http;

use std::{io, path::Path as FsPath, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::AmazonS3Builder, local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use tokio::sync::Semaphore;

pub use self::config::BucketConfig;
use crate::{
    MediaError,
    blobs::{self, Blobs, Whole},
};

/// What is sent to a bucket at once; a file that is no larger is sent in one request. Buckets take parts of 5 MiB
/// and more, and 10,000 of them: files of up to 78 GiB.
const PART_BYTES: usize = 8 << 20;
/// Files that are carried at once, each with a part in memory. Further ones wait on the disk.
const MAX_CARRIED: usize = 8;
/// The object that says whose a bucket is, or the part of it that the prefix names.
const OWNER: &str = "hearth-server-name";
/// How often a request is repeated that failed for a reason that may pass.
const MAX_RETRIES: usize = 4;
/// How long that may take.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// What carrying to a bucket needs.
#[derive(Clone)]
pub(crate) struct Bucket {
    /// The folder of this machine in which uploads are written.
    pub(crate) staging: Arc<dyn ObjectStore>,
    places: Arc<Semaphore>,
}

impl Blobs {
    /// The bytes in a bucket; uploads on their way there in a folder of this machine, which is made if it is missing. What
    /// a crash left in it is removed. The bucket is tried: it must be there, let this server read and write, and be no
    /// other server's.
    pub async fn open_bucket(
        config: &BucketConfig,
        folder: &FsPath,
        server_name: &str,
    ) -> Result<Self, MediaError> {
        let name = config.name.as_deref().unwrap_or_default();
        let failed = |error: &dyn std::fmt::Display| {
            MediaError::Internal(format!("the bucket {name} cannot be used: {error}"))
        };
        let staging = blobs::open_staging(folder).await?;
        let built = {
            let config = config.clone();
            hearth_storage::run_blocking(move || build(&config)).await
        };
        let objects = built.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let objects: Arc<dyn ObjectStore> = match config.prefix.as_str() {
            "" => Arc::new(objects),
            prefix => Arc::new(PrefixStore::new(objects, prefix)),
        };
        own(objects.as_ref(), server_name).await.map_err(|error| failed(&error))?;
        Ok(Self::over_bucket(objects, Bucket::over(staging)))
    }
}

/// Reading the certificates that the system trusts takes a while: to be called off the async threads.
fn build(config: &BucketConfig) -> Result<impl ObjectStore + use<>, object_store::Error> {
    let retry = RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(config.name.clone().unwrap_or_default())
        .with_region(&config.region)
        .with_access_key_id(config.access_key_id.clone().unwrap_or_default())
        .with_secret_access_key(config.secret_access_key.clone().unwrap_or_default())
        .with_virtual_hosted_style_request(!config.path_style)
        .with_allow_http(true)
        .with_retry(retry)
        .with_http_connector(http::Connector);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build()
}

/// Makes sure that nobody else keeps their content here, and that this server can write: the other's sweep would remove
/// what this one has.
async fn own(objects: &dyn ObjectStore, server_name: &str) -> Result<(), MediaError> {
    let path = Path::from(OWNER);
    match objects.get(&path).await {
        Ok(found) => {
            let owner = found.bytes().await?;
            if owner != server_name.as_bytes() {
                let owner = String::from_utf8_lossy(&owner).into_owned();
                return Err(MediaError::Internal(format!(
                    "it is {owner}'s; choose another media.bucket.prefix"
                )));
            }
        }
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    objects.put(&path, PutPayload::from(server_name.to_owned().into_bytes())).await?;
    Ok(())
}

impl Bucket {
    /// Carries what is in this folder.
    pub(crate) fn over(staging: LocalFileSystem) -> Self {
        Self { staging: Arc::new(staging), places: Arc::new(Semaphore::new(MAX_CARRIED)) }
    }

    /// Sends a whole file to its place, over what may be there already: the same bytes.
    pub(crate) async fn carry(
        &self,
        objects: &dyn ObjectStore,
        whole: &Whole,
    ) -> Result<(), MediaError> {
        let closed = |_| MediaError::Internal("this server is stopping".to_owned());
        let _place = self.places.acquire().await.map_err(closed)?;
        let place = blobs::place(whole.hash);
        let mut parts = Parts::of(self.staging.get(&whole.path).await?);
        let first = parts.next().await.map_err(|error| unread(&error))?;
        if parts.is_over() {
            objects.put(&place, first).await?;
            return Ok(());
        }
        let mut upload = objects.put_multipart(&place).await?;
        match send(upload.as_mut(), first, parts).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "cannot withdraw what was sent of a file to the bucket");
                }
                Err(error)
            }
        }
    }
}

async fn send(
    upload: &mut dyn MultipartUpload,
    first: PutPayload,
    mut parts: Parts,
) -> Result<(), MediaError> {
    upload.put_part(first).await?;
    while !parts.is_over() {
        let part = parts.next().await.map_err(|error| unread(&error))?;
        upload.put_part(part).await?;
    }
    upload.complete().await?;
    Ok(())
}

/// The folder of this machine cannot be read.
fn unread(error: &io::Error) -> MediaError {
    MediaError::Internal(format!("an upload cannot be read again: {error}"))
}

/// A file in parts of [`PART_BYTES`].
struct Parts {
    body: crate::ContentStream,
    next: BytesMut,
    over: bool,
}

impl Parts {
    fn of(found: object_store::GetResult) -> Self {
        Self { body: blobs::stream_of(found), next: BytesMut::new(), over: false }
    }

    /// Have all bytes been given out?
    fn is_over(&self) -> bool {
        self.over && self.next.is_empty()
    }

    async fn next(&mut self) -> Result<PutPayload, io::Error> {
        while !self.over && self.next.len() <= PART_BYTES {
            match self.body.next().await {
                Some(chunk) => self.next.extend_from_slice(&chunk?),
                None => self.over = true,
            }
        }
        let part = self.next.split_to(self.next.len().min(PART_BYTES));
        Ok(part.freeze().into())
    }
}
