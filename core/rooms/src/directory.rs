//! The public room directory.

/// What the directory remembers.
#[derive(Debug, Default)]
pub(crate) struct Directory;
