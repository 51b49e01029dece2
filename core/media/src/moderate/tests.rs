use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use hearth_storage::Store;
use ruma::{UInt, UserId, owned_server_name, user_id};

use super::*;
use crate::{About, Blobs, KEYSPACES, MediaConfig, Thumbnail, testing};

/// A picture of one pixel, and no colour to speak of.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

struct Bench {
    media: Media,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new(config: MediaConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(folder.path()).await.unwrap();
        let (media, _) = testing::media(Store::memory_for_tests(KEYSPACES), blobs, config);
        Self { media, folder }
    }

    async fn upload(&self, user_id: &UserId, body: &[u8]) -> Result<ContentUri, MediaError> {
        let mut upload = self.media.upload(user_id, None, About::default(), None).await?;
        upload.write(Bytes::copy_from_slice(body)).await?;
        upload.finish().await
    }

    async fn read(&self, uri: &ContentUri) -> Result<Vec<u8>, MediaError> {
        let content = self.media.local_content(uri, Duration::ZERO).await?;
        let body: Vec<Bytes> = content.body.try_collect().await.unwrap();
        Ok(body.concat())
    }

    /// A still thumbnail, which is never the moving original.
    async fn thumbnail(&self, uri: &ContentUri) -> Result<u64, MediaError> {
        let wanted = Thumbnail::new(UInt::from(32_u32), UInt::from(32_u32), None, None).unwrap();
        Ok(self.media.local_thumbnail(uri, wanted, Duration::ZERO).await?.bytes)
    }

    /// How many different contents are kept.
    fn kept(&self) -> usize {
        let shards = std::fs::read_dir(self.folder.path().join("content")).unwrap();
        shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
    }
}

fn ann() -> &'static UserId {
    user_id!("@ann:hearth.test")
}

fn bob() -> &'static UserId {
    user_id!("@bob:hearth.test")
}

#[tokio::test]
async fn bytes_go_with_the_last_item_that_has_them() {
    let bench = Bench::new(MediaConfig { user_quota_bytes: 60, ..Default::default() }).await;
    let first = bench.upload(ann(), GIF).await.unwrap();
    let second = bench.upload(bob(), GIF).await.unwrap();
    bench.thumbnail(&first).await.unwrap();
    assert_eq!(bench.kept(), 2);
    assert!(bench.upload(ann(), GIF).await.is_err(), "no room left");
    bench.media.remove(&first).await.unwrap();
    assert!(matches!(bench.read(&first).await, Err(MediaError::NotFound)));
    assert!(matches!(bench.thumbnail(&first).await, Err(MediaError::NotFound)));
    assert!(matches!(bench.media.remove(&first).await, Err(MediaError::NotFound)));
    assert_eq!(bench.read(&second).await.unwrap(), GIF);
    assert_eq!(bench.kept(), 1, "the thumbnail is gone");
    bench.media.remove(&second).await.unwrap();
    assert_eq!(bench.kept(), 0);
    bench.upload(ann(), GIF).await.expect("there is room again");
}

#[tokio::test]
async fn what_is_hidden_is_hidden_under_every_uri_until_it_is_shown_again() {
    let bench = Bench::new(MediaConfig::default()).await;
    let first = bench.upload(ann(), GIF).await.unwrap();
    let second = bench.upload(bob(), GIF).await.unwrap();
    let other = bench.upload(ann(), b"something else").await.unwrap();
    bench.thumbnail(&second).await.unwrap();
    bench.media.quarantine(&first).await.unwrap();
    let again = bench.upload(bob(), GIF).await.unwrap();
    for uri in [&first, &second, &again] {
        assert!(matches!(bench.read(uri).await, Err(MediaError::NotFound)));
        assert!(matches!(bench.thumbnail(uri).await, Err(MediaError::NotFound)));
    }
    assert_eq!(bench.read(&other).await.unwrap(), b"something else");
    assert_eq!(bench.kept(), 2, "hidden, not removed; its thumbnail is removed");
    bench.media.end_quarantine(&second).await.unwrap();
    for uri in [&first, &second, &again] {
        assert_eq!(bench.read(uri).await.unwrap(), GIF);
        bench.thumbnail(uri).await.unwrap();
    }
}

#[tokio::test]
async fn a_uri_that_waits_for_its_upload_can_be_removed() {
    let bench = Bench::new(MediaConfig::default()).await;
    let uri = bench.media.create(ann()).await.unwrap().uri;
    assert!(matches!(bench.media.quarantine(&uri).await, Err(MediaError::NotFound)));
    bench.media.remove(&uri).await.unwrap();
    let begun = bench.media.upload(ann(), Some(uri), About::default(), None).await;
    assert!(matches!(begun, Err(MediaError::NotFound)));
    let unknown = ContentUri::new(owned_server_name!("far.test"), "abc".to_owned()).unwrap();
    assert!(matches!(bench.media.remove(&unknown).await, Err(MediaError::NotFound)));
}
