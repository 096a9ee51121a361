//! What `cfs admin meta consistency-check --repair` does: damaged registers from a site that verifies, and a structure
//! that is not sound by ordinary entries, which every site applies.

mod structure;

use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ConsistencyReply, ResyncRequest};
use serde::Serialize;
use tonic::transport::Channel;

use super::consistency_check::REBUILD;
use crate::Context;

/// One thing that was done, or could not be.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// `registers` or `structure`.
    what: &'static str,
    inode: u64,
    pub(super) done: bool,
    text: String,
}

impl Step {
    fn tell(self, steps: &mut Vec<Self>) {
        let mark = if self.done { "repaired" } else { "not repaired" };
        anstream::eprintln!("{mark}: inode {}: {}", self.inode, self.text);
        steps.push(self);
    }
}

/// Repairs what `found` names, on the site that answered, and the structure at the primary. Says what it does on
/// standard error.
pub(super) async fn repair(
    context: &Context,
    inspect: &mut InspectClient<Channel>,
    found: &ConsistencyReply,
) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for differing in &found.differing {
        let inode = differing.inode;
        let step = |done, text| Step { what: "registers", inode, done, text };
        if differing.damaged.contains(&found.site) {
            match resync(inspect, inode).await {
                Ok(text) => step(true, text).tell(&mut steps),
                Err(why) => step(false, why).tell(&mut steps),
            }
        } else if differing.damaged.is_empty() {
            let text = format!(
                "{}; compare the copies with `cfs admin meta lookup`, and `resync --from SITE` where it is wrong, with --force \
                 if SITE does not verify",
                differing.why
            );
            step(false, text).tell(&mut steps);
        } else {
            let text = format!("it is damaged at {}; next: run this there", differing.damaged.join(" and "));
            step(false, text).tell(&mut steps);
        }
    }
    // What is derived from damaged registers is no ground for entries.
    if !found.disordered.is_empty() {
        anstream::eprintln!("where rows do not stand in order and this does not help: {REBUILD}");
    } else if steps.iter().all(|step| step.done) {
        structure::repair(context, inspect, &mut steps).await?;
    } else if !found.structure.is_empty() {
        anstream::eprintln!("the structure is not repaired before all registers are");
    }
    Ok(steps)
}

/// The last step of a repair, or why there was none.
async fn resync(inspect: &mut InspectClient<Channel>, inode: u64) -> Result<String, String> {
    let message = |status: tonic::Status| status.message().to_owned();
    let request = ResyncRequest { inode, ..ResyncRequest::default() };
    let mut replies = inspect.resync(request).await.map_err(message)?.into_inner();
    let mut last = String::new();
    while let Some(progress) = replies.message().await.map_err(message)? {
        last = progress.text;
    }
    Ok(last)
}
