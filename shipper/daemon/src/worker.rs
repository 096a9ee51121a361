//! Threads of their own for what blocks: the disk is never waited for on the async runtime.

use std::future::Future;
use std::io;

/// What a site does behind everything else has this nice value. Each step of it takes a fifth of the processor's time away where
/// it is short (sched(7)), so this leaves about a tenth.
const BEHIND: i32 = 10;

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

/// Runs `work`, which may block, on a thread of its own that gives way on the processor and goes over a store in small pieces:
/// nobody waits for it, and others wait for what runs beside it.
pub(crate) async fn behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("behind".to_owned()).spawn(move || {
        // On Linux this is the thread's own, and anybody may give way more. Where it is not to be had, nothing gives way.
        let _ = rustix::process::setpriority_process(None, BEHIND);
        // Whoever asked may be gone.
        let _ = done.send(cfs_store::pace::gently(work));
    })?;
    outcome.await.map_err(|_| io::Error::other("the work broke off"))
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    #[tokio::test]
    async fn what_runs_behind_gives_way_and_nothing_else_does() {
        let here = getpriority_process(None).unwrap();
        assert_eq!(super::behind(|| getpriority_process(None).unwrap()).await.unwrap(), super::BEHIND.max(here));
        assert_eq!(getpriority_process(None).unwrap(), here);
        assert!(super::behind(|| panic!("it breaks off")).await.is_err());
    }
}
