//! Where bytes are kept: objects named by their hash, made beside and moved into place when they are whole.

use std::{
    fmt, fs,
    future::ready,
    io::{self, Read as _},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use hearth_storage::run_blocking;
use object_store::{
    GetResult, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _,
    local::LocalFileSystem, memory::InMemory, path::Path,
};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::{ContentStream, MediaError, bucket::Bucket, hash::ContentHash, uri::random_text};

/// Bytes of an upload that are gathered before they are written.
pub const PART_BYTES: usize = 128 * 1024;
/// Bytes of a file that are read at once. The way to a thread that may wait for the disk, and back, costs more than
/// reading so much does.
pub(crate) const READ_BYTES: u64 = 512 * 1024;
/// The folder of what is whole.
const WHOLE: &str = "content";
/// The folder of what is being written. Nothing in it is of use to another run of the process.
const STAGED: &str = "incoming";
/// Random characters in the name of what is being written.
const STAGED_NAME_CHARS: usize = 24;

/// The place of all bytes. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    /// Where they are read.
    objects: Arc<dyn ObjectStore>,
    /// Where they are written first: the same, or a folder of this machine if they are in a bucket.
    staging: Arc<dyn ObjectStore>,
    /// The folder, if they are in one.
    folder: Option<PathBuf>,
    bucket: Option<Bucket>,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("objects", &self.objects).finish_non_exhaustive()
    }
}

/// Bytes that are being written. Dropped, they are gone.
pub(crate) struct Staged {
    blobs: Blobs,
    path: Path,
    writer: Box<dyn MultipartUpload>,
    hasher: Sha256,
    bytes: u64,
    /// What was gathered. Copied together, so that what comes in tiny pieces costs no more than its bytes.
    part: BytesMut,
    /// The part before, on its way to the disk while this one comes.
    writing: Option<JoinHandle<object_store::Result<()>>>,
}

/// Bytes that are written to the end and on the disk, but have no place yet. (In a bucket they have it, so that nobody's
/// turn lasts as long as sending them; but whoever finds that nobody refers to them may remove them.)
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) path: Path,
    pub(crate) hash: ContentHash,
    pub(crate) bytes: u64,
}

/// What stood where bytes were moved to. The system frees it when this is dropped: see [`Self::free`].
#[derive(Debug)]
pub(crate) struct Replaced(Option<fs::File>);

impl Blobs {
    /// The bytes in a folder of this machine, which is made if it is missing. What a crash left of unfinished
    /// uploads is removed. Nobody else may use the folder.
    pub async fn open_folder(folder: &FsPath) -> Result<Self, MediaError> {
        let folder = folder.to_owned();
        let opened = run_blocking(move || open_folder(folder)).await;
        opened.map_err(|error| MediaError::Internal(error.to_string()))?
    }

    /// Bytes in memory, for tests and simulations.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()), None)
    }

    fn over(objects: Arc<dyn ObjectStore>, folder: Option<PathBuf>) -> Self {
        Self { staging: Arc::clone(&objects), objects, folder, bucket: None }
    }

    pub(crate) fn over_bucket(objects: Arc<dyn ObjectStore>, bucket: Bucket) -> Self {
        Self { objects, staging: Arc::clone(&bucket.staging), folder: None, bucket: Some(bucket) }
    }

    /// The same bytes, behind something that sees every call.
    #[cfg(test)]
    pub(crate) fn behind(
        mut self,
        wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        self.objects = wrap(self.objects);
        self.staging = wrap(self.staging);
        if let Some(bucket) = &mut self.bucket {
            bucket.staging = Arc::clone(&self.staging);
        }
        self
    }

    /// May bytes that nobody refers to be at their place before [`Self::publish`]?
    pub(crate) fn is_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// Begins to write something.
    pub(crate) async fn stage(&self) -> Result<Staged, MediaError> {
        let path = Path::from_iter([STAGED, &random_text(STAGED_NAME_CHARS)?]);
        let writer = self.staging.put_multipart(&path).await?;
        let (blobs, hasher, part) = (self.clone(), Sha256::new(), BytesMut::new());
        Ok(Staged { blobs, path, writer, hasher, bytes: 0, part, writing: None })
    }

    /// Moves whole bytes to where they are read, over what may be there already: the same bytes.
    pub(crate) async fn publish(&self, whole: &Whole) -> Result<Replaced, MediaError> {
        if let Some(bucket) = &self.bucket {
            if !self.is_kept(whole).await? {
                bucket.carry(self.objects.as_ref(), whole).await?;
            }
            self.discard(whole).await;
            return Ok(Replaced(None));
        }
        let replaced = self.hold(whole.hash).await?;
        self.objects.rename(&whole.path, &place(whole.hash)).await?;
        Ok(replaced)
    }

    /// Are these bytes at their place still?
    async fn is_kept(&self, whole: &Whole) -> Result<bool, MediaError> {
        match self.objects.head(&place(whole.hash)).await {
            Ok(found) => Ok(found.size == whole.bytes),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what was written of whole bytes on their way to their place.
    pub(crate) async fn discard(&self, whole: &Whole) {
        delete(self.staging.as_ref(), &whole.path).await;
    }

    /// Removes bytes.
    pub(crate) async fn remove(&self, hash: ContentHash) {
        delete(self.objects.as_ref(), &place(hash)).await;
    }

    /// The bytes in order, and how many they are; `None` if there are none of this hash.
    pub(crate) async fn read(
        &self,
        hash: ContentHash,
    ) -> Result<Option<(u64, ContentStream)>, MediaError> {
        let found = match self.objects.get(&place(hash)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((found.meta.size, stream_of(found))))
    }

    /// The hashes of everything that is kept, in no useful order.
    pub(crate) fn list(&self) -> BoxStream<'static, Result<ContentHash, MediaError>> {
        let listed = self.objects.list(Some(&Path::from(WHOLE)));
        let hash = |path: &Path| ContentHash::parse(path.filename()?);
        listed
            .try_filter_map(move |object| ready(Ok(hash(&object.location))))
            .map_err(MediaError::from)
            .boxed()
    }

    /// What is kept under this hash now, held open: to free a large file takes the system a while, and whoever
    /// measures an upload could otherwise see that there was one.
    async fn hold(&self, hash: ContentHash) -> Result<Replaced, MediaError> {
        let Some(folder) = &self.folder else { return Ok(Replaced(None)) };
        let file = folder.join(WHOLE).join(hash.shard()).join(hash.to_string());
        let held = run_blocking(move || fs::File::open(file).ok()).await;
        held.map(Replaced).map_err(|error| MediaError::Internal(error.to_string()))
    }
}

/// What cannot be removed now is removed by the next start's sweep.
async fn delete(objects: &dyn ObjectStore, path: &Path) {
    match objects.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, "cannot remove content that nobody needs"),
    }
}

/// The bytes of an object in order.
pub(crate) fn stream_of(found: GetResult) -> ContentStream {
    match found.payload {
        GetResultPayload::File(file, _) => stream_of_file(file, found.meta.size),
        GetResultPayload::Stream(stream) => stream.map_err(io::Error::other).boxed(),
    }
}

/// So many bytes of a file, [`READ_BYTES`] at a time; fewer if it ends before.
fn stream_of_file(file: fs::File, bytes: u64) -> ContentStream {
    let next = |(file, left): (fs::File, u64)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = move || {
            let mut part =
                Vec::with_capacity(usize::try_from(left.min(READ_BYTES)).unwrap_or_default());
            (&file).take(left.min(READ_BYTES)).read_to_end(&mut part)?;
            Ok::<_, io::Error>((file, Bytes::from(part)))
        };
        let (file, part) = run_blocking(read).await.map_err(io::Error::other)??;
        let left = left.saturating_sub(part.len() as u64);
        Ok((!part.is_empty()).then_some((part, (file, left))))
    };
    futures_util::stream::try_unfold((file, bytes), next).boxed()
}

impl Staged {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes.
    pub(crate) async fn write(&mut self, mut chunk: Bytes) -> Result<(), MediaError> {
        self.hasher.update(&chunk);
        self.bytes = self.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        while !chunk.is_empty() {
            let fits = PART_BYTES.saturating_sub(self.part.len()).min(chunk.len());
            self.part.extend_from_slice(&chunk.split_to(fits));
            if self.part.len() >= PART_BYTES {
                self.write_part().await?;
            }
        }
        Ok(())
    }

    /// Ends the bytes and waits until the disk has them, or the bucket.
    pub(crate) async fn finish(mut self) -> Result<Whole, MediaError> {
        self.write_part().await?;
        self.written().await?;
        self.writer.complete().await?;
        let hash = ContentHash::new(self.hasher.finalize().into());
        let whole = Whole { path: self.path, hash, bytes: self.bytes };
        if let Some(bucket) = &self.blobs.bucket
            && let Err(error) = bucket.carry(self.blobs.objects.as_ref(), &whole).await
        {
            self.blobs.discard(&whole).await;
            return Err(error);
        }
        Ok(whole)
    }

    /// Begins to write what was gathered, when what was gathered before is written.
    async fn write_part(&mut self) -> Result<(), MediaError> {
        self.written().await?;
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, BytesMut::with_capacity(PART_BYTES));
        self.writing = Some(tokio::spawn(self.writer.put_part(part.freeze().into())));
        Ok(())
    }

    /// Waits until the last part is written.
    async fn written(&mut self) -> Result<(), MediaError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.await;
        Ok(written.map_err(|error| MediaError::Internal(error.to_string()))??)
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Replaced {
    /// Lets the system free it, behind whatever is answered now. Where there was nothing the same is done.
    pub(crate) fn free(self) {
        drop(tokio::task::spawn_blocking(move || drop(self.0)));
    }
}

/// Where whole bytes are.
pub(crate) fn place(hash: ContentHash) -> Path {
    Path::from_iter([WHOLE, &hash.shard(), &hash.to_string()])
}

fn open_folder(folder: PathBuf) -> Result<Blobs, MediaError> {
    prepare_folder(&folder).map_err(|error| unusable(&folder, &error))?;
    let objects = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
    Ok(Blobs::over(Arc::new(objects), Some(folder)))
}

/// A folder for what is being written, without anything in it. What is there is of no use to another run of the process,
/// so that the disk need not have it.
pub(crate) async fn open_staging(folder: &FsPath) -> Result<LocalFileSystem, MediaError> {
    let folder = folder.to_owned();
    let opened = run_blocking(move || {
        let made = empty_staged(&folder).and_then(|()| fs::create_dir_all(folder.join(STAGED)));
        made.map_err(|error| unusable(&folder, &error))?;
        Ok(LocalFileSystem::new_with_prefix(&folder)?)
    });
    opened.await.map_err(|error| MediaError::Internal(error.to_string()))?
}

fn unusable(folder: &FsPath, error: &io::Error) -> MediaError {
    MediaError::Internal(format!("the folder {} cannot be used: {error}", folder.display()))
}

fn empty_staged(folder: &FsPath) -> io::Result<()> {
    match fs::remove_dir_all(folder.join(STAGED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Empties the folder of unfinished uploads, and makes all folders of finished ones: if they were made when they
/// are needed first, the time of an upload would tell whether there is anything near it.
fn prepare_folder(folder: &FsPath) -> io::Result<()> {
    let (whole, staged) = (folder.join(WHOLE), folder.join(STAGED));
    empty_staged(folder)?;
    fs::create_dir_all(&staged)?;
    for shard in 0..=u8::MAX {
        fs::create_dir_all(whole.join(format!("{shard:02x}")))?;
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).into_iter();
    above.chain([folder, whole.as_path()]).try_for_each(|made| fs::File::open(made)?.sync_all())
}
