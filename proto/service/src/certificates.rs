//! Certificates that are replaced on disk while a daemon runs.

use std::fmt::Display;
use std::time::Duration;

/// They are looked at for changes so often.
const INTERVAL: Duration = Duration::from_secs(5);

/// Takes over certificates that have changed, for as long as the process lives. `reload` looks, says whether others are in use
/// now, and may block. A problem is logged once, and `unusable` is told of it once, until the files are sound again.
pub async fn follow<E: Display + Send + 'static>(
    reload: impl Fn() -> Result<bool, E> + Clone + Send + 'static,
    unusable: impl Fn(),
) {
    let mut known = String::new();
    loop {
        match tokio::task::spawn_blocking(reload.clone()).await {
            Ok(Ok(true)) => {
                known.clear();
                tracing::info!("new certificates are in use");
            }
            Ok(Ok(false)) => known.clear(),
            Ok(Err(error)) if error.to_string() != known => {
                unusable();
                tracing::error!(%error, "the certificates on disk are not usable; the ones in use stay");
                known = error.to_string();
            }
            Ok(Err(_)) => {}
            // The runtime ends.
            Err(_) => return,
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What each look finds, in order; the last one again and again.
    const LOOKS: [Result<bool, &str>; 7] =
        [Ok(false), Err("torn"), Err("torn"), Err("expired"), Ok(true), Err("expired"), Ok(false)];

    #[tokio::test(start_paused = true)]
    async fn each_problem_is_told_once_until_it_is_over() {
        let (looks, told) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let look = {
            let looks = looks.clone();
            move || LOOKS[looks.fetch_add(1, Ordering::Relaxed).min(LOOKS.len() - 1)]
        };
        let following = follow(look, || {
            told.fetch_add(1, Ordering::Relaxed);
        });
        let seen_all = async {
            while looks.load(Ordering::Relaxed) <= LOOKS.len() {
                tokio::time::sleep(INTERVAL / 10).await;
            }
        };
        tokio::select! {
            () = following => panic!("it goes on"),
            () = seen_all => {}
        }
        assert_eq!(told.load(Ordering::Relaxed), 3);
    }
}
