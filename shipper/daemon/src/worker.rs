//! Threads of their own for what blocks: the disk is never waited for on the async runtime.

use std::future::Future;
use std::io;

/// Runs `work` to its end on a thread of its own, where it may block. A simulation runs the same future on its one
/// thread.
///
/// If it panics, the process ends: a shipper without its journal thread or its apply thread would look alive.
pub(crate) fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work)));
        if outcome.is_err() {
            crate::fatal::fatal("a worker thread panicked", &name);
        }
    })?;
    Ok(())
}
