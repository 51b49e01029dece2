//! What an upload makes the server do, and that it is the same whether or not a stranger has the same bytes.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult,
    UploadPart, local::LocalFileSystem, memory::InMemory, path::Path as ObjectPath,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::{blobs, bucket::Bucket};

/// What was asked of all stores, in order.
#[derive(Clone, Debug)]
struct Calls {
    made: Arc<Mutex<Vec<String>>>,
    /// Places for removals of what has its place; without one they wait.
    removals: Arc<Semaphore>,
    /// Those that are done.
    removed: Arc<Semaphore>,
}

impl Calls {
    fn note(&self, what: &str, path: &ObjectPath, bytes: impl Into<Option<usize>>) {
        // Names differ, kinds of names do not.
        let folder = path.parts().next().unwrap();
        let bytes = bytes.into().map_or_else(String::new, |bytes| format!(" {bytes}"));
        self.made.lock().push(format!("{what} {}{bytes}", folder.as_ref()));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.made.lock())
    }
}

/// A store that notes what it is asked for.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn ObjectStore>,
    calls: Calls,
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "watched {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(
        &self,
        path: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.calls.note("put", path, payload.content_length());
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.calls.note("begin", path, None);
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(WatchedParts { inner, path: path.clone(), calls: self.calls.clone() }))
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> StoreResult<GetResult> {
        self.calls.note(if options.head { "head" } else { "get" }, path, None);
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<ObjectPath>>,
    ) -> BoxStream<'static, StoreResult<ObjectPath>> {
        let calls = self.calls.clone();
        let noted = paths.then(move |path| {
            let calls = calls.clone();
            async move {
                let path = path?;
                if is_content(&path) {
                    let _place = calls.removals.acquire().await.unwrap();
                }
                calls.note("delete", &path, None);
                Ok(path)
            }
        });
        let removed = Arc::clone(&self.calls.removed);
        let done = self.inner.delete_stream(noted.boxed()).inspect(move |path| {
            if path.as_ref().is_ok_and(is_content) {
                removed.add_permits(1);
            }
        });
        done.boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> StoreResult<()> {
        self.calls.note("copy", to, None);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: RenameOptions,
    ) -> StoreResult<()> {
        self.calls.note("move to", to, None);
        self.inner.rename_opts(from, to, options).await
    }
}

/// Is this the place of whole bytes?
fn is_content(path: &ObjectPath) -> bool {
    path.prefix_matches(&ObjectPath::from("content"))
}

#[derive(Debug)]
struct WatchedParts {
    inner: Box<dyn MultipartUpload>,
    path: ObjectPath,
    calls: Calls,
}

#[async_trait]
impl MultipartUpload for WatchedParts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.calls.note("part", &self.path, data.content_length());
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        self.calls.note("complete", &self.path, None);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.calls.note("abort", &self.path, None);
        self.inner.abort().await
    }
}

/// Media whose bytes are in a folder or in a bucket, and what was asked of them.
struct Observed {
    bench: Bench,
    calls: Calls,
    /// How often bytes are written on their way to their place.
    copies: usize,
}

impl Observed {
    async fn all(config: &MediaConfig) -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let in_folder = Blobs::open_folder(folder.path()).await.unwrap();
        let in_folder = Self::over(folder, in_folder, config, 1);
        let folder = tempfile::tempdir().unwrap();
        let staging: LocalFileSystem = blobs::open_staging(folder.path()).await.unwrap();
        let in_bucket = Blobs::over_bucket(Arc::new(InMemory::new()), Bucket::over(staging));
        [in_folder, Self::over(folder, in_bucket, config, 2)]
    }

    fn over(folder: TempDir, blobs: Blobs, config: &MediaConfig, copies: usize) -> Self {
        let none = || Arc::new(Semaphore::new(0));
        let calls = Calls { made: Arc::default(), removals: none(), removed: none() };
        let blobs = blobs.behind(|inner| Arc::new(Watched { inner, calls: calls.clone() }));
        Self { bench: Bench::over(folder, blobs, config.clone()), calls, copies }
    }

    /// What an upload makes the server do before it answers: what it asks of the stores of bytes, how often it commits;
    /// and whether the bytes are kept.
    async fn work(&self, user_id: &UserId, body: &[u8]) -> (Vec<String>, u64, bool) {
        let commits = || self.bench.store.notifier().published().get();
        let before: u64 = commits();
        self.calls.take();
        let kept = match self.bench.upload(user_id, body).await {
            Ok(_) => true,
            Err(MediaError::QuotaExceeded { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        (self.calls.take(), commits() - before, kept)
    }

    /// How many different bytes are kept.
    async fn kept(&self) -> usize {
        self.bench.media.blobs().list().try_collect::<Vec<_>>().await.unwrap().len()
    }
}

#[tokio::test]
async fn bytes_that_a_stranger_has_are_as_much_work_as_others() {
    let (ann, eve) = (user_id!("@ann:hearth.test"), user_id!("@eve:hearth.test"));
    for observed in Observed::all(&MediaConfig::default()).await {
        // One part, several, and several on the way to a bucket too.
        for bytes in [10_usize, 300_000, 9_000_000] {
            let (known, unknown) = (vec![1; bytes], vec![2; bytes]);
            observed.bench.upload(ann, &known).await.unwrap();
            let of_unknown = observed.work(eve, &unknown).await;
            assert_eq!(observed.work(eve, &known).await, of_unknown);
            // Nor is there a difference to what is one's own.
            assert_eq!(observed.work(eve, &known).await, of_unknown);
            let (calls, commits, kept) = of_unknown;
            assert_eq!((commits, kept), (1, true));
            let sizes =
                calls.iter().filter_map(|call| call.rsplit(' ').next()?.parse::<usize>().ok());
            assert_eq!(sizes.sum::<usize>(), bytes * observed.copies, "{calls:?}");
        }
        assert_eq!(observed.kept().await, 6);
    }
}

#[tokio::test]
async fn what_is_refused_after_all_is_removed_behind_the_answer() {
    let (ann, eve) = (user_id!("@ann:hearth.test"), user_id!("@eve:hearth.test"));
    let config = MediaConfig { user_quota_bytes: 25_000, ..Default::default() };
    for observed in Observed::all(&config).await {
        let (known, unknown) = (vec![1; 10_000], vec![2; 10_000]);
        observed.bench.upload(ann, &known).await.unwrap();
        observed.bench.upload(eve, &vec![3; 20_000]).await.unwrap();
        // Removals wait: an answer that waited for one would never come.
        let of_unknown = observed.work(eve, &unknown).await;
        assert_eq!(observed.work(eve, &known).await, of_unknown);
        assert_eq!((of_unknown.1, of_unknown.2), (0, false));
        if observed.bench.media.blobs().is_bucket() {
            observed.calls.removals.add_permits(1);
            drop(observed.calls.removed.acquire().await.unwrap());
        }
        assert_eq!(observed.kept().await, 2, "what nobody has is gone, and nothing else");
    }
}
