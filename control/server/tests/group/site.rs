//! Sites whose control processes are runtimes of their own in one process, with real certificates over real sockets.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_control::raft::{GroupDir, Node, Owner, Peers, files};
use cfs_control_core::command::{Command, Founding, Kind};
use cfs_control_core::state::{Settings, Site as Enrolled};
use cfs_model::{ClusterId, Level, SiteId, SiteName};
use cfs_rpc::ca::{Authority, Validity, install};
use cfs_rpc::clock::RealClock;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::io::PeerIdentity;
use cfs_rpc::net::Net;
use cfs_rpc::serve::{Admission, incoming};
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::control_server::{Control, ControlServer};
use cfs_rpc::v1::*;
use tonic::{Request, Response, Status};

use crate::net::TestNet;

pub(crate) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(crate) const GROUP: u64 = 0xabcdef;

/// Certificates for everybody.
pub(crate) struct World {
    dir: tempfile::TempDir,
    authority: Authority,
}

pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) number: u8,
    pub(crate) node: Arc<Node>,
    pub(crate) net: TestNet,
    pub(crate) addr: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::create(&dir.path().join("ca"), CLUSTER, SystemTime::now()).expect("an authority");
        Self { dir, authority }
    }

    pub(crate) fn tls(&self, site: &str, role: Role) -> SharedTls {
        let identity = Identity { cluster: CLUSTER, site: SiteName::new(site).expect("a name"), role };
        let validity = Validity::lasting(SystemTime::now(), Duration::from_secs(3600));
        let issued = self.authority.issue(&identity, validity).expect("a certificate");
        let dir = self.dir.path().join(format!("tls-{site}-{role}"));
        install(&dir, role, self.authority.cert_pem(), &issued).expect("installed");
        SharedTls::load(&dir, role, Arc::new(RealClock)).expect("loaded")
    }

    pub(crate) fn control(&self, number: u8) -> std::path::PathBuf {
        let control = self.dir.path().join(format!("control-{number}"));
        std::fs::create_dir_all(&control).expect("created");
        control
    }

    /// A site whose node has this number in the group.
    pub(crate) fn start(&self, number: u8, id: u64) -> Site {
        let owner = owner(number);
        let dir = files::create(&self.control(number), &owner, GROUP, id).expect("created");
        files::take_into_use(&self.control(number), &dir).expect("in use");
        self.run(number, dir, "127.0.0.1:0", TestNet::new())
    }

    /// The same site again, after [`Site::stop`].
    pub(crate) fn restart(&self, number: u8, addr: &str) -> Site {
        let dir = files::open(&self.control(number), &owner(number)).expect("opened").expect("enrolled");
        self.run(number, dir, addr, TestNet::new())
    }

    fn run(&self, number: u8, dir: GroupDir, addr: &str, net: TestNet) -> Site {
        let owner = owner(number);
        let tls = self.tls(owner.site.as_str(), Role::Control);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let starting = async {
            let listener = net.bind(addr).await.expect("bound");
            let addr = listener.local_addr().expect("an address").to_string();
            let peers = Peers::new(Arc::new(net.clone()), tls.clone());
            let node = Arc::new(Node::start(dir, &owner, peers.clone()).await.expect("started"));
            let service = ControlServer::new(Service(node.clone())).max_decoding_message_size(16 << 20);
            let incoming = incoming(listener, tls.clone(), Admission::of(Role::ALL));
            tokio::spawn(cfs_rpc::http2::server().add_service(service).serve_with_incoming(incoming));
            (addr, node)
        };
        // The caller is within a runtime of its own.
        let (addr, node) =
            std::thread::scope(|scope| scope.spawn(|| runtime.block_on(starting)).join()).expect("started");
        Site { name: owner.site.to_string(), number, node, net, addr, runtime: Some(runtime) }
    }
}

pub(crate) fn owner(number: u8) -> Owner {
    let site = SiteName::new(format!("site-{number}")).expect("a name");
    Owner { cluster: CLUSTER, site, site_id: SiteId(number), level: Level::THIS }
}

pub(crate) fn command(kind: Kind) -> Command {
    Command { at_ms: 1, by: "test".into(), kind }
}

pub(crate) fn note(text: &str) -> Command {
    command(Kind::Note { what: "test".into(), site: SiteId(0), text: text.into(), evidence: String::new() })
}

impl Site {
    pub(crate) fn enrolled(&self) -> Enrolled {
        Enrolled {
            id: SiteId(self.number),
            name: SiteName::new(self.name.clone()).expect("a name"),
            witness: self.number == 3,
            node: self.node.id(),
            peer: String::new(),
            producer: String::new(),
            control: self.addr.clone(),
            http: String::new(),
            priority: 0,
        }
    }

    pub(crate) async fn found(&self) {
        let site = self.enrolled();
        let founding = Founding {
            cluster: CLUSTER,
            group: GROUP,
            site: site.clone(),
            settings: Settings::default(),
            level: Level::THIS,
            parent: None,
        };
        let command = command(Kind::Found(Box::new(founding)));
        let found = self.run(move |node| async move { node.found(site.member(), command).await }).await;
        found.expect("founded");
    }

    /// Runs on the site's own runtime.
    pub(crate) async fn run<T: Send + 'static, F>(&self, act: impl FnOnce(Arc<Node>) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let runtime = self.runtime.as_ref().expect("alive");
        runtime.spawn(act(self.node.clone())).await.expect("no panic")
    }

    pub(crate) async fn settle(&self) {
        let settled = self.run(|node| async move {
            let until = tokio::time::Instant::now() + Duration::from_secs(20);
            loop {
                match node.reconcile_members().await {
                    Ok(cfs_control::raft::Members::Settled) => return Ok(()),
                    other if tokio::time::Instant::now() > until => return Err(format!("{other:?}")),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        settled.await.expect("settled");
    }

    pub(crate) async fn propose(&self, text: &str) -> Result<(), cfs_control::raft::Error> {
        let command = note(text);
        self.run(move |node| async move { node.propose(command).await }).await.map(|_| ())
    }

    pub(crate) async fn read_index(&self) -> Result<(), cfs_control::raft::Error> {
        self.run(|node| async move { node.read_index().await }).await
    }

    /// Ends it in order, so that its directory can be opened again.
    pub(crate) async fn stop(mut self) {
        let runtime = self.runtime.take().expect("alive");
        let node = self.node.clone();
        runtime.spawn(async move { node.shutdown().await }).await.expect("stopped");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await.expect("ended");
    }

    /// Ends it as a kill does: every socket is closed by whoever cleans up.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.node.applied().borrow().state.events.iter().any(|event| event.text == text)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Site 1 leads; 2 and 3 vote.
pub(crate) async fn three(world: &World) -> Vec<Site> {
    let sites: Vec<Site> = (1..=3).map(|number| world.start(number, number.into())).collect();
    sites[0].found().await;
    for site in &sites[1..] {
        let enrol = command(Kind::Enrol { site: site.enrolled() });
        sites[0].run(move |node| async move { node.propose(enrol).await }).await.expect("enrolled");
    }
    sites[0].settle().await;
    sites
}

pub(crate) async fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Duration {
    let began = std::time::Instant::now();
    while !check() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

struct Service(Arc<Node>);

fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    let peer = PeerIdentity::of(request).ok_or_else(|| Status::unauthenticated("nobody"))?;
    Ok(peer.identity.clone())
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for Service {
    async fn raft(&self, request: Request<RaftRequest>) -> Answer<RaftReply> {
        let caller = caller(&request)?;
        self.0.handle_raft(request.into_inner(), &caller).await.map(Response::new)
    }
    async fn pre_vote(&self, request: Request<PreVoteRequest>) -> Answer<PreVoteReply> {
        let caller = caller(&request)?;
        self.0.handle_pre_vote(request.into_inner(), &caller).await.map(Response::new)
    }
    async fn take_over(&self, request: Request<TakeOverRequest>) -> Answer<TakeOverReply> {
        let caller = caller(&request)?;
        self.0.handle_take_over(request.into_inner(), &caller).await.map(Response::new)
    }
    async fn report(&self, _: Request<SiteReport>) -> Answer<SiteReportReply> {
        Err(Status::unimplemented("not a part of the group"))
    }
    async fn order(&self, _: Request<OrderRequest>) -> Answer<OrderReply> {
        Err(Status::unimplemented("not a part of the group"))
    }
    async fn propose(&self, _: Request<ProposeRequest>) -> Answer<ProposeReply> {
        Err(Status::unimplemented("not a part of the group"))
    }
    async fn join(&self, _: Request<JoinRequest>) -> Answer<JoinReply> {
        Err(Status::unimplemented("not a part of the group"))
    }
    async fn contact(&self, _: Request<ContactRequest>) -> Answer<ContactReply> {
        Err(Status::unimplemented("not a part of the group"))
    }
    type AdminStream = Pin<Box<dyn futures::Stream<Item = Result<AdminReply, Status>> + Send>>;
    async fn admin(&self, _: Request<AdminRequest>) -> Answer<Self::AdminStream> {
        Err(Status::unimplemented("not a part of the group"))
    }
}
