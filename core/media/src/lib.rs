//! Content that users upload (CS "Content repository"): its bytes, what is known of it, and who may still
//! upload more.
//!
//! [`Media`] is the one face of this crate. It knows nothing of HTTP and of rooms: whoever may ask for a
//! content URI gets what is behind it.
//!
//! # Who owns what
//!
//! An item that a user of this server uploaded is that user's: its row, the reference to its bytes and the
//! user's [usage](MediaConfig::user_quota_bytes) change in one commit, under this crate's lock for that user.
//! (The rows are no other crate's, so the lock is not the one of `users`.) The row is filed under the item's
//! own URI, so that a download reads one row.
//!
//! An item of another server that was fetched is this server's: whatever it is called there, this server may drop
//! it and fetch it again. One task's turn changes all of them.
//!
//! Bytes are the server's. They are named by their SHA-256 and kept once, however many items have them; each
//! item that has them is a row in the partition of that hash. There is no counter: bytes of which no such row is
//! left are removed, at once or, after a crash, by the sweep that runs at every start. Whoever adds or removes
//! the first or last row holds the lock of that hash, so that nothing is removed while it gets a new reference.
//!
//! # What always holds
//!
//! 1. Bytes, and the folder's entry of them, are on the disk, or in the bucket, before the row that refers to them is committed,
//!    and the row is durable before the upload is answered.
//! 2. An upload goes the same way whether or not somebody has uploaded the same before: it is written to the end,
//!    then moved over what is there; if it is refused after all, what happens to its bytes happens behind the answer.
//!    Neither the answer nor its time tells a stranger.
//! 3. At most [`PART_BYTES`] of an upload, and 512 KiB of a download, are in memory at once.
//! 4. An upload that ends early leaves nothing, at the latest after the next start.

mod blobs;
mod bucket;
mod cache;
mod config;
mod content;
mod create;
mod error;
mod fetch;
mod hash;
mod kinds;
mod media;
mod moderate;
pub mod multipart;
mod picture;
mod places;
mod preview;
mod remote;
mod schema;
mod sweep;
#[cfg(test)]
mod testing;
mod thumbnail;
mod turns;
mod upload;
mod uri;

pub use self::{
    blobs::{Blobs, PART_BYTES},
    bucket::BucketConfig,
    config::MediaConfig,
    content::{Content, ContentStream},
    create::Created,
    error::MediaError,
    media::{Media, MediaParts},
    preview::{Preview, PreviewConfig, PreviewRequest, Web, WebError},
    remote::{RemoteContent, RemoteMedia, RemoteMediaError},
    schema::KEYSPACES,
    thumbnail::Thumbnail,
    upload::{About, Upload},
    uri::ContentUri,
};
