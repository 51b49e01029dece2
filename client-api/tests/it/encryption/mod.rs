//! End-to-end encryption: `/keys` and what syncs tell of it.

mod conversations;
mod keys;
