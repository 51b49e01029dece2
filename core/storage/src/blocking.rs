//! Work that would hold up the async threads.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinError, spawn_blocking},
};

/// Runs a job that computes or reads for long on the runtime's threads for that. On a runtime of one
/// thread, which is a test's or a simulation's, it runs at once and in order, so that what happens does
/// not depend on how threads are scheduled.
///
/// # Errors
///
/// If the job panicked, or the runtime is shutting down.
pub async fn run_blocking<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(job());
    }
    spawn_blocking(job).await
}
