//! Where bytes are kept: objects named by their hash, made beside and moved into place when they are whole.

use std::{
    fmt, fs,
    future::ready,
    io,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use hearth_storage::run_blocking;
use object_store::{
    GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload,
    local::LocalFileSystem, memory::InMemory, path::Path,
};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use crate::{ContentStream, MediaError, hash::ContentHash, uri::random_text};

/// Bytes of an upload that are gathered before they are written, and bytes of a download that are read at once.
pub const PART_BYTES: usize = 128 * 1024;
/// The folder of what is whole.
const WHOLE: &str = "content";
/// The folder of what is being written. Nothing in it is of use to another run of the process.
const STAGED: &str = "incoming";
/// Random characters in the name of what is being written.
const STAGED_NAME_CHARS: usize = 24;

/// The place of all bytes. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    /// The folder, if they are in one.
    folder: Option<PathBuf>,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("objects", &self.objects).finish_non_exhaustive()
    }
}

/// Bytes that are being written. Dropped, they are gone.
pub(crate) struct Staged {
    path: Path,
    writer: Box<dyn MultipartUpload>,
    hasher: Sha256,
    bytes: u64,
    part: Vec<Bytes>,
    part_bytes: usize,
}

/// Bytes that are written to the end and on the disk, but have no place yet.
#[derive(Debug)]
pub(crate) struct Whole {
    path: Path,
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
        Self { objects: Arc::new(InMemory::new()), folder: None }
    }

    /// Begins to write something.
    pub(crate) async fn stage(&self) -> Result<Staged, MediaError> {
        let path = Path::from_iter([STAGED, &random_text(STAGED_NAME_CHARS)?]);
        let writer = self.objects.put_multipart(&path).await?;
        let (hasher, part) = (Sha256::new(), Vec::new());
        Ok(Staged { path, writer, hasher, bytes: 0, part, part_bytes: 0 })
    }

    /// Moves whole bytes to where they are read, over what may be there already: the same bytes.
    pub(crate) async fn publish(&self, whole: &Whole) -> Result<Replaced, MediaError> {
        let replaced = self.hold(whole.hash).await?;
        self.objects.rename(&whole.path, &place(whole.hash)).await?;
        Ok(replaced)
    }

    /// Removes whole bytes that are not needed after all.
    pub(crate) async fn discard(&self, whole: &Whole) {
        self.delete(&whole.path).await;
    }

    /// Removes bytes.
    pub(crate) async fn remove(&self, hash: ContentHash) {
        self.delete(&place(hash)).await;
    }

    /// The bytes in order, [`PART_BYTES`] at a time, and how many they are; `None` if there are none of this hash.
    pub(crate) async fn read(
        &self,
        hash: ContentHash,
    ) -> Result<Option<(u64, ContentStream)>, MediaError> {
        let found = match self.objects.get(&place(hash)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = found.meta.size;
        let stream: ContentStream = match found.payload {
            GetResultPayload::File(file, _) => {
                ReaderStream::with_capacity(File::from_std(file), PART_BYTES).boxed()
            }
            GetResultPayload::Stream(stream) => stream.map_err(io::Error::other).boxed(),
        };
        Ok(Some((bytes, stream)))
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

    /// What cannot be removed now is removed by the next start's sweep.
    async fn delete(&self, path: &Path) {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "cannot remove content that nobody needs"),
        }
    }
}

impl Staged {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), MediaError> {
        self.hasher.update(&chunk);
        self.bytes = self.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        self.part_bytes += chunk.len();
        self.part.push(chunk);
        if self.part_bytes >= PART_BYTES { self.write_part().await } else { Ok(()) }
    }

    /// Ends the bytes and waits until the disk has them.
    pub(crate) async fn finish(mut self) -> Result<Whole, MediaError> {
        self.write_part().await?;
        self.writer.complete().await?;
        let hash = ContentHash::new(self.hasher.finalize().into());
        Ok(Whole { path: self.path, hash, bytes: self.bytes })
    }

    async fn write_part(&mut self) -> Result<(), MediaError> {
        self.part_bytes = 0;
        let part: PutPayload = self.part.drain(..).collect();
        Ok(self.writer.put_part(part).await?)
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Replaced {
    /// Lets the system free it, behind whatever is answered now.
    pub(crate) fn free(self) {
        let Self(Some(file)) = self else { return };
        drop(tokio::task::spawn_blocking(move || drop(file)));
    }
}

/// Where whole bytes are.
fn place(hash: ContentHash) -> Path {
    Path::from_iter([WHOLE, &hash.shard(), &hash.to_string()])
}

fn open_folder(folder: PathBuf) -> Result<Blobs, MediaError> {
    let failed = |error: io::Error| {
        MediaError::Internal(format!("the folder {} cannot be used: {error}", folder.display()))
    };
    prepare_folder(&folder).map_err(failed)?;
    let objects = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
    Ok(Blobs { objects: Arc::new(objects), folder: Some(folder) })
}

/// Empties the folder of unfinished uploads, and makes all folders of finished ones: if they were made when they
/// are needed first, the time of an upload would tell whether there is anything near it.
fn prepare_folder(folder: &FsPath) -> io::Result<()> {
    let (whole, staged) = (folder.join(WHOLE), folder.join(STAGED));
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&staged)?;
    for shard in 0..=u8::MAX {
        fs::create_dir_all(whole.join(format!("{shard:02x}")))?;
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).into_iter();
    above.chain([folder, whole.as_path()]).try_for_each(|made| fs::File::open(made)?.sync_all())
}
