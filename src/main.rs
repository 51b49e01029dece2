//! The Hearth homeserver.

use std::process::ExitCode;

/// Many small, short-lived allocations on several threads: this allocator halves their cost against
/// the system's, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hearth::cli::main()
}
