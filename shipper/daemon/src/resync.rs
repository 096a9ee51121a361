//! Repairing one inode of this site's store from another site.
//!
//! It is a repair of the store and no entry of a journal: afterwards the store is what its cursors say. While a part is
//! fetched nothing is applied here, so that the part is not older than the store when it comes; appends go on.

mod source;

use std::sync::Arc;
use std::time::Duration;

use cfs_audit::{Event, Kind, Severity};
use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_store::digest::bucket_of;
use cfs_store::repair::{Error, Part, Repaired};
use tokio::sync::mpsc;
use tonic::Status;

use crate::digests::wait_applied;
use crate::node::Node;
use crate::{descent, verify};
use source::Source;

/// How long the source may take to reach this site's position; nothing is applied here meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// One fetch, that included.
const FETCH: Duration = Duration::from_secs(5);
/// How long this site may take to apply what the source had applied.
const CATCH_UP: Duration = Duration::from_secs(30);
/// Other inodes of the same bucket that are named.
const MAX_OTHERS: usize = 100;
/// Rows out of place that are taken out one by one.
const MAX_MISPLACED: usize = 16;
/// What repairs a store as a whole.
const REBUILD: &str = "cfs admin replication enroll --primary SITE --force-rebuild";

/// Where progress is told.
pub(crate) type Progress = mpsc::Sender<Result<v1::ResyncProgress, Status>>;

/// One repair while it goes on.
struct Resync<'a> {
    node: &'a Arc<Node>,
    inode: u64,
    out: &'a Progress,
    source: String,
    registers: u64,
    changed: u64,
    /// What the source had applied when it was read.
    reached: Vector,
}

/// Repairs an inode, telling each step to `out` and to the audit trail.
pub(crate) async fn resync(node: &Arc<Node>, request: &v1::ResyncRequest, out: &Progress) -> Result<(), Status> {
    let Ok(_turn) = node.repairing.try_lock() else {
        return Err(Status::aborted(
            "another resync is under way at this site; next: wait for its end and repeat this one",
        ));
    };
    let inode = request.inode;
    let mut resync =
        Resync { node, inode, out, source: request.from.clone(), registers: 0, changed: 0, reached: Vector::new() };
    let from = if request.from.is_empty() { "any site that verifies" } else { &request.from };
    resync.tell("REQUESTED", format!("inode {inode} of {} is to be repaired from {from}", node.site())).await;
    match resync.run(request).await {
        Ok(()) => Ok(()),
        Err(why) => {
            trail(node, inode, "REFUSED", true, &why);
            Err(Status::failed_precondition(why))
        }
    }
}

impl Resync<'_> {
    async fn run(&mut self, request: &v1::ResyncRequest) -> Result<(), String> {
        let here = verify::verify(self.node).await.map_err(|status| status.message().to_owned())?;
        let mut source = source::choose(self.node, request, &here).await?;
        self.source = source.site.clone();
        self.tell("SOURCE", format!("{}: {}", source.site, source.why)).await;
        if here.misplaced > 0 {
            self.take_out().await?;
        }
        self.copy(&mut source).await?;
        let phase = if self.changed == 0 { "COMPARED" } else { "REPAIRED" };
        self.tell(
            phase,
            format!("{} registers compared, {} rows were not as they should be", self.registers, self.changed),
        )
        .await;
        self.verify(&mut source).await
    }

    /// Takes out what does not stand where its key belongs: near that nothing is found, and nothing could be put in place.
    async fn take_out(&mut self) -> Result<(), String> {
        let store = self.node.store.clone();
        let taken = tokio::task::spawn_blocking(move || store.take_out_misplaced(MAX_MISPLACED)).await;
        let taken = taken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let Some(taken) = taken else {
            return Err(format!(
                "more rows of the store of {} do not stand where their keys belong than can be repaired inode by inode; next: \
                 rebuild the site: {REBUILD}",
                self.node.site()
            ));
        };
        if taken.is_empty() {
            return Ok(());
        }
        self.changed += taken.len() as u64;
        let inodes: Vec<String> = taken.iter().map(u64::to_string).collect();
        let text = format!(
            "{} rows that did not stand where their keys belong, under inode {}; what they held is missing now: `cfs admin \
             meta consistency-check` says of which inodes, and --repair fetches it",
            taken.len(),
            inodes.join(", ")
        );
        self.tell("TAKEN OUT", text).await;
        Ok(())
    }

    async fn copy(&mut self, source: &mut Source) -> Result<(), String> {
        let mut from = bytes::Bytes::new();
        loop {
            let (repaired, next) = self.copy_part(source, from.clone()).await?;
            self.registers += repaired.registers;
            self.changed += repaired.changed;
            if !repaired.conflicts.is_empty() {
                self.node.audit.look_in_store();
            }
            if next.is_empty() {
                break;
            }
            from = next;
        }
        if self.registers == 0 && self.changed == 0 {
            return Err(format!(
                "nothing is known of inode {}, neither here nor at {}; next: `cfs admin meta ls -R /` lists what there is; \
                 if `cfs admin meta consistency-check` names this one all the same, rebuild the site: {REBUILD}",
                self.inode, source.site
            ));
        }
        Ok(())
    }

    /// Fetches one part and puts it in place, while nothing is applied here.
    async fn copy_part(&mut self, source: &mut Source, from: bytes::Bytes) -> Result<(Repaired, bytes::Bytes), String> {
        let (site, inode) = (source.site.clone(), self.inode);
        let failed = |why: &str| format!("{site} could not serve inode {inode}: {why}");
        let turn = self.node.applying.lock().await;
        let here = self.node.store.position().applied;
        let request = v1::RegistersRequest {
            inode: self.inode,
            from: from.clone(),
            wanted: here.to_wire(),
            wait_ms: WAIT.as_millis() as u64,
        };
        let reply = match tokio::time::timeout(FETCH, source.client.read_registers(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(failed(status.message())),
            Err(_) => return Err(failed("it did not answer")),
        };
        let applied = Vector::from_wire(&reply.applied).ok_or_else(|| failed("it answered with something else"))?;
        let next = reply.next.clone();
        let part = Part {
            applied,
            bytes: reply.part,
            registers: reply.registers,
            next: (!next.is_empty()).then(|| next.clone()),
        };
        self.reached = self.reached.max(&part.applied);
        let (store, inode) = (self.node.store.clone(), self.inode);
        let done = tokio::task::spawn_blocking(move || store.repair(inode, &from, &part)).await;
        drop(turn);
        match done.map_err(|error| error.to_string())? {
            Ok(repaired) => Ok((repaired, next)),
            Err(Error::Behind { .. }) => Err(format!(
                "{} has not applied all that {} has; next: wait until it has caught up (`cfs admin replication lag`), or \
                 name another site with --from",
                source.site,
                self.node.site()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Compares the inode's bucket with the source's, and makes the digest kept fit registers that are right.
    async fn verify(&mut self, source: &mut Source) -> Result<(), String> {
        let bucket = bucket_of(self.inode);
        let unverified = |why: &str| {
            format!(
                "its registers were put in place, and could not be compared with those of {} afterwards: {why}; \
                 next: cfs admin meta consistency-check",
                source.site
            )
        };
        // Before that this store holds some of what it has not applied yet.
        if !wait_applied(self.node, &self.reached, CATCH_UP).await {
            let secs = CATCH_UP.as_secs();
            return Err(unverified(&format!("this site has not applied all that the source had within {secs} s")));
        }
        let difference = descent::differing(self.node, &mut source.client, [bucket], MAX_OTHERS).await;
        let difference = difference.map_err(|why| unverified(&why))?;
        if difference.inodes.iter().any(|differing| differing.inode == self.inode) {
            return Err(unverified(&format!("they still differ; if they go on to, rebuild the site: {REBUILD}")));
        }
        if difference.count == 0 && difference.undecided > 0 {
            let text = format!(
                "inode {} is that of {}; {} inodes near it were being written all the time, so the digest was left as it is",
                self.inode, source.site, difference.undecided
            );
            self.tell("VERIFIED", text).await;
            return Ok(());
        }
        if difference.count > 0 {
            let others: Vec<String> = difference.inodes.iter().take(10).map(|d| d.inode.to_string()).collect();
            let text = format!(
                "inode {} is that of {}; {} other inodes near it differ: {}; next: resync each at the site where `cfs admin \
                 meta consistency-check` says that it is damaged",
                self.inode,
                source.site,
                difference.count,
                others.join(", ")
            );
            self.tell("VERIFIED", text).await;
            return Ok(());
        }
        let store = self.node.store.clone();
        let settled = tokio::task::spawn_blocking(move || store.settle_bucket(bucket)).await;
        let settled = settled.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let digest = if settled { "the digest that was kept was corrected" } else { "the digest that is kept fits" };
        self.tell("VERIFIED", format!("inode {} is that of {}; {digest}", self.inode, source.site)).await;
        Ok(())
    }

    async fn tell(&self, phase: &str, text: String) {
        trail(self.node, self.inode, phase, false, &text);
        let progress = v1::ResyncProgress {
            phase: phase.to_owned(),
            text,
            site: self.node.site().to_string(),
            source: self.source.clone(),
            registers: self.registers,
            changed: self.changed,
        };
        // The caller may be gone.
        let _ = self.out.send(Ok(progress)).await;
    }
}

/// Puts a step into the audit trail and the log.
fn trail(node: &Node, inode: u64, phase: &str, failed: bool, text: &str) {
    let severity = if failed { Severity::Error } else { Severity::Info };
    node.audit(Event::new(Kind::Resync, severity, text).inode(inode).with("phase", phase));
    if failed {
        tracing::error!(inode, phase, "resync: {text}");
    } else {
        tracing::info!(inode, phase, "resync: {text}");
    }
}
