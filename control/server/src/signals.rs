//! What signals ask of this process.

use std::sync::Arc;

use cfs_service::{Signal, Signals, manager, reload};

use crate::control::Control;
use crate::{reread, stop};

/// Does what signals ask, until one asks for the end.
pub(crate) async fn obey(control: &Arc<Control>, signals: &mut Signals) {
    let mut reloads = 0;
    loop {
        match signals.next().await {
            Signal::Reload => {
                reloads += 1;
                let of_thread = control.clone();
                let work = move || {
                    let take = |now| reread::take(&of_thread, now);
                    reload::run(&of_thread.config, "control", reloads, take, || Ok(of_thread.tls.reload()?));
                };
                reload::again(work).await;
            }
            Signal::Interrupt => {
                tracing::info!("stopping at once (SIGINT)");
                return manager::stopping("stops");
            }
            Signal::Terminate => {
                tracing::info!("stopping (SIGTERM)");
                manager::stopping("hands over what others can go on with");
                tokio::select! {
                    () = stop::leave(control) => {}
                    again = end(signals) => tracing::warn!(signal = again.as_str(), "stopping at once, nothing more is handed over"),
                }
                return manager::status("stops");
            }
        }
    }
}

/// The next signal that asks for the end.
async fn end(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::Reload => {}
            end => return end,
        }
    }
}
