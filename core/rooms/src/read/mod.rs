//! Questions about rooms. Nothing here writes.
