//! Signs of life: this process's thread, the group's core and the thread that writes its log go on. No other site and no
//! majority is needed for them.

use std::sync::Arc;

use cfs_service::Watchdog;

use crate::control::Control;

/// Gives them for as long as the process lives, where a service manager asks for them.
pub(crate) async fn run(control: Arc<Control>) {
    let watchdog = Watchdog::of_environment();
    let Some(interval) = watchdog.interval() else { return };
    loop {
        let answers = match control.node() {
            Some(node) => node.answers().await,
            None => true,
        };
        // Nobody holds what every directive and every report needs.
        drop(control.local());
        if answers {
            watchdog.alive(control.boot_ms());
        }
        tokio::time::sleep(interval / 2).await;
    }
}
