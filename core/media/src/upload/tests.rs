mod strangers;

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use hearth_storage::Store;
use ruma::{owned_server_name, user_id};
use tempfile::TempDir;

use super::*;
use crate::{Blobs, KEYSPACES, MediaConfig, blobs::READ_BYTES, hash::ContentHash, testing};

/// Media in a folder, over a store in memory.
struct Bench {
    media: Media,
    store: Store,
    folder: TempDir,
}

impl Bench {
    async fn new(config: MediaConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(folder.path()).await.unwrap();
        Self::over(folder, blobs, config)
    }

    fn over(folder: TempDir, blobs: Blobs, config: MediaConfig) -> Self {
        let store = Store::memory_for_tests(KEYSPACES);
        let (media, _) = testing::media(store.clone(), blobs, config);
        Self { media, store, folder }
    }

    /// The same store and folder in another run of the process.
    async fn reopen(self) -> Self {
        self.media.close().await;
        let blobs = Blobs::open_folder(self.folder.path()).await.unwrap();
        let config = self.media.config().clone();
        let (media, _) = testing::media(self.store.clone(), blobs, config);
        Self { media, ..self }
    }

    async fn upload(&self, user_id: &UserId, body: &[u8]) -> Result<ContentUri, MediaError> {
        let mut upload = self.media.upload(user_id, None, About::default(), None).await?;
        for chunk in body.chunks(1_000) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.finish().await
    }

    async fn read(&self, uri: &ContentUri) -> Vec<u8> {
        let content = self.media.local_content(uri, Duration::ZERO).await.unwrap();
        let body: Vec<Bytes> = content.body.try_collect().await.unwrap();
        assert!(body.iter().all(|chunk| chunk.len() as u64 <= READ_BYTES));
        body.concat()
    }

    /// The files in a folder below the one of all bytes.
    fn files(&self, below: &str) -> Vec<String> {
        files(&self.folder.path().join(below))
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

/// Waits for what happens behind an answer.
async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come about");
}

#[tokio::test]
async fn what_was_uploaded_is_there_in_the_next_run_too() {
    let bench = Bench::new(MediaConfig::default()).await;
    let body: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let uri = bench.upload(user_id!("@a:hearth.test"), &body).await.unwrap();
    assert_eq!(uri.server_name(), "hearth.test");
    assert!(bench.read(&uri).await == body);
    let bench = bench.reopen().await;
    assert!(bench.read(&uri).await == body);
    assert!(bench.files("incoming").is_empty());
}

#[tokio::test]
async fn content_is_the_same_whatever_pieces_it_comes_in() {
    let bench = Bench::new(MediaConfig::default()).await;
    let body: Vec<u8> = (0..75_000_u32).flat_map(u32::to_le_bytes).collect();
    for piece in [1, 77_777, crate::blobs::PART_BYTES, body.len()] {
        let user_id = user_id!("@a:hearth.test");
        let mut upload = bench.media.upload(user_id, None, About::default(), None).await.unwrap();
        for piece in body.chunks(piece) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let uri = upload.finish().await.unwrap();
        assert!(bench.read(&uri).await == body);
    }
    assert_eq!(bench.files("content").len(), 1);
}

#[tokio::test]
async fn bytes_stay_when_it_is_not_known_whether_something_refers_to_them() {
    let bench = Bench::new(MediaConfig::default()).await;
    let mut staged = bench.media.blobs().stage().await.unwrap();
    staged.write(Bytes::from_static(b"precious")).await.unwrap();
    let whole = staged.finish().await.unwrap();
    let mut commit = Commit::new(&());
    commit.put(&USAGE, &user_id!("@a:hearth.test").to_owned(), &(), &UsageRow::default());
    bench.store.close().await.unwrap();
    assert!(bench.media.keep(whole, commit).await.is_err());
    assert_eq!(bench.files("content").len(), 1);
}

#[tokio::test]
async fn nothing_is_an_upload_too() {
    let bench = Bench::new(MediaConfig::default()).await;
    let uri = bench.upload(user_id!("@a:hearth.test"), b"").await.unwrap();
    assert_eq!(bench.read(&uri).await, b"");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(bench.files("content"), [empty], "named by its SHA-256");
}

#[tokio::test]
async fn the_same_bytes_are_kept_once_and_stay_while_anybody_has_them() {
    let bench = Bench::new(MediaConfig::default()).await;
    let (a, b) = (user_id!("@a:hearth.test"), user_id!("@b:hearth.test"));
    let first = bench.upload(a, b"the same").await.unwrap();
    let again = bench.upload(a, b"the same").await.unwrap();
    let of_b = bench.upload(b, b"the same").await.unwrap();
    bench.upload(b, b"another").await.unwrap();
    assert_eq!(bench.files("content").len(), 2);
    assert!(bench.files("incoming").is_empty());
    assert!(first != again && again != of_b);
    for uri in [&first, &again, &of_b] {
        assert_eq!(bench.read(uri).await, b"the same");
    }
    let hash = ContentHash::parse(&files_named(&bench, b"the same")).unwrap();
    assert!(!bench.media.release(hash).await.unwrap(), "still referred to");
    assert_eq!(bench.read(&first).await, b"the same");
}

fn files_named(bench: &Bench, body: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    let name = ContentHash::new(Sha256::digest(body).into()).to_string();
    assert!(bench.files("content").contains(&name));
    name
}

#[tokio::test]
async fn many_uploads_of_the_same_at_once_are_all_there() {
    let bench = Arc::new(Bench::new(MediaConfig::default()).await);
    let uploads = (0..16).map(|number| {
        let bench = Arc::clone(&bench);
        async move {
            let user_id = UserId::parse(format!("@u{}:hearth.test", number % 4)).unwrap();
            bench.upload(&user_id, &vec![7; 200_000]).await.unwrap()
        }
    });
    let uris: Vec<_> = futures_util::stream::iter(uploads).buffer_unordered(16).collect().await;
    for uri in &uris {
        assert_eq!(bench.read(uri).await.len(), 200_000);
    }
    assert_eq!(bench.files("content").len(), 1);
    assert!(bench.files("incoming").is_empty());
}

#[tokio::test]
async fn what_is_too_large_or_goes_away_leaves_nothing() {
    let bench = Bench::new(MediaConfig { max_upload_bytes: 3_000, ..Default::default() }).await;
    let user_id = user_id!("@a:hearth.test");
    let media = &bench.media;
    let refused = media.upload(user_id, None, About::default(), Some(3_001)).await;
    assert!(matches!(refused, Err(MediaError::TooLarge { max_bytes: 3_000 })));
    let refused = bench.upload(user_id, &[0; 3_001]).await;
    assert!(matches!(refused, Err(MediaError::TooLarge { max_bytes: 3_000 })));
    eventually(|| bench.files("incoming").is_empty()).await;
    let mut left = media.upload(user_id, None, About::default(), None).await.unwrap();
    left.write(Bytes::from_static(&[1; 2_000])).await.unwrap();
    assert_eq!(bench.files("incoming").len(), 1);
    drop(left);
    eventually(|| bench.files("incoming").is_empty()).await;
    assert!(bench.files("content").is_empty());
    bench.upload(user_id, &[0; 3_000]).await.unwrap();
}

#[tokio::test]
async fn a_user_has_so_much_room_and_no_more() {
    let bench = Bench::new(MediaConfig { user_quota_bytes: 5_000, ..Default::default() }).await;
    let (a, b) = (user_id!("@a:hearth.test"), user_id!("@b:hearth.test"));
    bench.upload(a, &[1; 2_000]).await.unwrap();
    // The same bytes count again: else the answer would tell what others have.
    bench.upload(a, &[1; 2_000]).await.unwrap();
    let refused = bench.upload(a, &[2; 1_001]).await;
    assert!(matches!(refused, Err(MediaError::QuotaExceeded { max_bytes: 5_000 })));
    let refused = bench.media.upload(a, None, About::default(), Some(1_001)).await;
    assert!(matches!(refused, Err(MediaError::QuotaExceeded { .. })));
    assert!(bench.files("incoming").is_empty());
    assert_eq!(bench.files("content").len(), 1, "the refused bytes are gone");
    bench.upload(b, &[2; 5_000]).await.unwrap();
    let bench = bench.reopen().await;
    bench.upload(a, &[3; 1_000]).await.unwrap();
    assert!(bench.upload(a, &[3; 1]).await.is_err());
}

#[tokio::test]
async fn two_uploads_at_once_cannot_both_take_the_last_room() {
    let bench = Bench::new(MediaConfig { user_quota_bytes: 1_500, ..Default::default() }).await;
    let user_id = user_id!("@a:hearth.test");
    let both = tokio::join!(bench.upload(user_id, &[1; 1_000]), bench.upload(user_id, &[2; 1_000]));
    assert!(both.0.is_ok() != both.1.is_ok());
    assert!(bench.files("incoming").is_empty());
    assert_eq!(bench.files("content").len(), 1);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_nothing_else() {
    let bench = Bench::new(MediaConfig::default()).await;
    let uri = bench.upload(user_id!("@a:hearth.test"), b"kept").await.unwrap();
    let kept = files_named(&bench, b"kept");
    // Moved into place, but never committed; half written; and something that is not ours.
    let content = bench.folder.path().join("content");
    std::fs::write(content.join("ab").join(format!("ab{}", "0".repeat(62))), "orphan").unwrap();
    std::fs::write(content.join("README"), "a note").unwrap();
    std::fs::write(bench.folder.path().join("incoming/half#1"), "half").unwrap();
    let bench = bench.reopen().await;
    assert!(bench.files("incoming").is_empty());
    eventually(|| bench.files("content").len() == 2).await;
    assert!(bench.files("content").contains(&kept));
    assert_eq!(bench.read(&uri).await, b"kept");
}

#[tokio::test]
async fn bytes_that_are_lost_or_cut_are_an_error_and_not_an_answer() {
    let bench = Bench::new(MediaConfig::default()).await;
    let uri = bench.upload(user_id!("@a:hearth.test"), b"12345").await.unwrap();
    let file = files_named(&bench, b"12345");
    let file = bench.folder.path().join("content").join(&file[..2]).join(&file);
    std::fs::write(&file, "123").unwrap();
    assert!(matches!(
        bench.media.local_content(&uri, Duration::ZERO).await,
        Err(MediaError::Internal(_))
    ));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(
        bench.media.local_content(&uri, Duration::ZERO).await,
        Err(MediaError::Internal(_))
    ));
    let unknown = ContentUri::new(owned_server_name!("hearth.test"), "abc".to_owned()).unwrap();
    assert!(matches!(
        bench.media.local_content(&unknown, Duration::ZERO).await,
        Err(MediaError::NotFound)
    ));
}

#[tokio::test]
async fn types_and_names_are_kept() {
    let bench = Bench::new(MediaConfig::default()).await;
    let user_id = user_id!("@a:hearth.test");
    let about = |kind: &str, name: &str| About {
        content_type: Some(kind.to_owned()),
        file_name: Some(name.to_owned()),
    };
    let upload =
        bench.media.upload(user_id, None, about("image/png", "../ä.png"), None).await.unwrap();
    let content =
        bench.media.local_content(&upload.finish().await.unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!((content.content_type.as_str(), content.inline), ("image/png", true));
    assert_eq!(content.file_name.as_deref(), Some("../ä.png"));
    let mut upload = bench.media.upload(user_id, None, about("image/png", ""), None).await.unwrap();
    upload.write(Bytes::from_static(b"<")).await.unwrap();
    upload.write(Bytes::from_static(b"svg>")).await.unwrap();
    let content =
        bench.media.local_content(&upload.finish().await.unwrap(), Duration::ZERO).await.unwrap();
    assert!(!content.inline);
    let long = about("image/png", &"x".repeat(MAX_NAME_BYTES + 1));
    let refused = bench.media.upload(user_id, None, long, None).await;
    assert!(matches!(refused, Err(MediaError::InvalidParam(_))));
}
