//! This site's member of the group, as the parts of the control process use it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cfs_control_core::command::Founding;
use cfs_control_core::{Command, Member, Outcome};
use cfs_model::{SiteId, SiteName};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::v1;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tonic::Status;

use crate::control::{Control, blocking, ms};
use crate::raft::{self, Applied, Members, Owner, files};

/// [`Node::catch_up`] waits for so long.
const CATCH_UP_LIMIT: std::time::Duration = std::time::Duration::from_millis(100);

/// Who leads, who votes, as the Raft library tells.
pub(crate) type Leadership = RaftServerMetrics<u64, Member>;

/// A member of the group.
pub(crate) struct Node {
    raft: raft::Node,
}

/// Why this site could not become a member, or open what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Raft(#[from] raft::Error),
    #[error("the group refuses its own founding: {0}")]
    Refused(String),
    #[error("{0}")]
    Stopped(anyhow::Error),
}

fn owner(control: &Control) -> Owner {
    let cluster = &control.config.cluster;
    Owner { cluster: cluster.id, site: control.site().clone(), site_id: control.id(), level: cluster.level }
}

impl Node {
    /// Opens the member that this site was; `None` if it was none.
    pub(crate) async fn open(control: &Control) -> Result<Option<Arc<Self>>, Error> {
        let (directory, who) = (control.config.control_dir().to_owned(), owner(control));
        let opened = blocking(move || files::open(&directory, &who)).await.map_err(Error::Stopped)??;
        match opened {
            None => Ok(None),
            Some(directory) => Ok(Some(Self::start(control, directory).await?)),
        }
    }

    async fn start(control: &Control, directory: files::GroupDir) -> Result<Arc<Self>, Error> {
        let raft = raft::Node::start(directory, &owner(control), control.peers.clone()).await?;
        Ok(Arc::new(Self { raft }))
    }

    async fn make(control: &Control, group: u64, node: u64, use_at_once: bool) -> Result<Arc<Self>, Error> {
        let (directory, who) = (control.config.control_dir().to_owned(), owner(control));
        let made = blocking(move || {
            let made = files::create(&directory, &who, group, node)?;
            if use_at_once {
                files::take_into_use(&directory, &made)?;
            }
            Ok::<_, files::Error>(made)
        });
        let made = made.await.map_err(Error::Stopped)??;
        Self::start(control, made).await
    }

    /// Starts as a member that the group has let in. What this site was in another group is kept in its own directory.
    pub(crate) async fn create(control: &Control, group: u64, node: u64) -> Result<Arc<Self>, Error> {
        Self::make(control, group, node, true).await
    }

    /// Founds a group. Only once the first command is on disk is its directory taken into use.
    pub(crate) async fn found(control: &Control, founding: &Founding, command: Command) -> Result<Arc<Self>, Error> {
        let node = Self::make(control, founding.group, founding.site.node, false).await?;
        match node.raft.found(founding.site.member(), command).await? {
            Outcome::Refused(why) => return Err(Error::Refused(why)),
            Outcome::Done | Outcome::Allotted(_) => {}
        }
        let (directory, founded) = (control.config.control_dir().to_owned(), node.clone());
        let switched = blocking(move || files::take_into_use(&directory, founded.raft.directory()));
        switched.await.map_err(Error::Stopped)??;
        Ok(node)
    }

    pub(crate) async fn shutdown(&self) {
        self.raft.shutdown().await;
    }

    /// Whether the group's core and its disk go on; waits for them.
    pub(crate) async fn answers(&self) -> bool {
        self.raft.answers().await
    }

    /// The newest state that is applied; on disk.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.raft.applied()
    }

    /// Waits until everything up to `index` is applied here, for 100 ms at most. A new primary may have applied its `Open` a
    /// moment before the leader; refused a lease for that, it would wait for its next report.
    pub(crate) async fn catch_up(&self, index: u64) {
        let mut applied = self.raft.applied();
        let there = applied.wait_for(|applied| applied.index() >= index);
        let _ = tokio::time::timeout(CATCH_UP_LIMIT, there).await;
    }

    /// Sees every change of who leads.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft.watch()
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// What this member keeps on disk, without what the entries say.
    pub(crate) async fn kept(&self) -> Result<v1::RaftState, raft::Error> {
        self.raft.kept().await
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.term()
    }

    pub(crate) fn id(&self) -> u64 {
        self.raft.id()
    }

    /// The site that leads, as far as is known; `None` while it is thought lost.
    pub(crate) fn leader_site(&self) -> Option<SiteName> {
        if self.raft.suspects_leader() {
            return None;
        }
        SiteName::new(self.raft.leader_site()?).ok()
    }

    /// For people: since there was a leader for certain; all ones: not since the start.
    pub(crate) fn led_age_ms(&self) -> u64 {
        self.raft.led_age().map_or(u64::MAX, ms)
    }

    /// Since the leader was heard, or since the start; for a leader, 0 while a majority follows it.
    pub(crate) fn leader_age_ms(&self) -> u64 {
        if self.raft.is_leader() && !self.raft.has_quorum() {
            return u64::MAX;
        }
        ms(self.raft.leader_age())
    }

    /// The sites that vote; `None` while that changes.
    pub(crate) fn voters(&self) -> Option<BTreeSet<SiteId>> {
        let mut sets = self.voter_sets();
        if sets.len() == 1 { sets.pop() } else { None }
    }

    /// The sets of sites each of which needs a majority: more than one while they change, none before the first.
    pub(crate) fn voter_sets(&self) -> Vec<BTreeSet<SiteId>> {
        let metrics = self.raft.watch();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let site = |node: &u64| membership.get_node(node).map(|member| member.site);
        let sets = membership.get_joint_config().iter().map(|voters| voters.iter().filter_map(site).collect());
        sets.filter(|sites: &BTreeSet<SiteId>| !sites.is_empty()).collect()
    }

    /// What a message to a member's node carries.
    pub(crate) fn envelope(&self, to_node: u64) -> v1::Envelope {
        self.raft.envelope(to_node)
    }

    /// Whether a message is meant for this node and comes from whom it says.
    pub(crate) fn check(
        &self,
        envelope: Option<&v1::Envelope>,
        caller: &SiteName,
        control: &Control,
    ) -> Result<(), Status> {
        self.raft.check(envelope, &identity(caller, control)).map(|_| ())
    }

    /// Proves that this node led at some moment after the call, and has applied everything committed by then.
    pub(crate) async fn read_index(&self) -> Result<(), raft::Error> {
        self.raft.read_index().await
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, raft::Error> {
        self.raft.propose(command).await
    }

    pub(crate) async fn move_leadership(&self, site: &SiteName) -> Result<(), raft::Error> {
        self.raft.move_leadership(site.as_str()).await
    }

    /// One step towards the members that the state wants.
    pub(crate) async fn reconcile(&self) -> Result<Members, raft::Error> {
        self.raft.reconcile_members().await
    }

    pub(crate) async fn handle_raft(
        &self,
        request: v1::RaftRequest,
        caller: &SiteName,
        control: &Control,
    ) -> Result<v1::RaftReply, Status> {
        self.raft.handle_raft(request, &identity(caller, control)).await
    }

    pub(crate) async fn handle_pre_vote(
        &self,
        request: v1::PreVoteRequest,
        caller: &SiteName,
        control: &Control,
    ) -> Result<v1::PreVoteReply, Status> {
        self.raft.handle_pre_vote(request, &identity(caller, control)).await
    }

    pub(crate) async fn handle_take_over(
        &self,
        request: v1::TakeOverRequest,
        caller: &SiteName,
        control: &Control,
    ) -> Result<v1::TakeOverReply, Status> {
        self.raft.handle_take_over(request, &identity(caller, control)).await
    }
}

/// The caller, whose role was checked already.
fn identity(site: &SiteName, control: &Control) -> Identity {
    Identity { cluster: control.config.cluster.id, site: site.clone(), role: Role::Control }
}
