//! Every row that this crate owns.

/// All of them, for the store's opening. Each module declares its own.
pub const KEYSPACES: &[&str] = &[];
