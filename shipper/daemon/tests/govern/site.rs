//! Shippers as processes, the control process's end of their sockets, and producers.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use cfs_config::Config;
use cfs_model::op::Attributes;
use cfs_model::op::{Create, InodeKind, Op, SetAttr, StreamPosition, op::Kind};
use cfs_model::{ClusterId, SiteName};
use cfs_rpc::ca::{self, Authority, Validity};
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::v1;
use cfs_rpc::v1::append_request::Kind as Request;
use cfs_rpc::v1::append_response::Kind as Response;
use cfs_rpc::v1::governor_client::GovernorClient;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::producer_client::ProducerClient;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Whatever a test waits for comes within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    config: PathBuf,
    socket: PathBuf,
    process: Option<Child>,
}

/// A cluster's files and its running shippers; all end with it.
pub(crate) struct Sites {
    pub(crate) all: Vec<Site>,
    _dir: tempfile::TempDir,
}

impl Sites {
    pub(crate) fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId([7; 16]);
        let authority = Authority::create(&dir.path().join("ca"), cluster, SystemTime::now()).unwrap();
        let names = ["site-a", "site-b", "site-c"];
        // All at once, so that no two are the same.
        let held: Vec<TcpListener> = (0..3 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(held);
        let mut all = Vec::new();
        for (index, name) in names.iter().take(count).enumerate() {
            let home = dir.path().join(name);
            std::fs::create_dir_all(home.join("run")).unwrap();
            let mut text = format!(
                "[site]\nname = \"{name}\"\nid = {}\n[cluster]\nid = \"{cluster}\"\n[paths]\nstate = {:?}\nrun = {:?}\n\
                 [listen]\npeer = \"127.0.0.1:{}\"\nproducer = \"127.0.0.1:{}\"\nshipper_http = \"127.0.0.1:{}\"\n",
                index + 1,
                home.join("state"),
                home.join("run"),
                ports[index],
                ports[count + index],
                ports[2 * count + index],
            );
            for (peer, peer_name) in names.iter().take(count).enumerate().filter(|(peer, _)| *peer != index) {
                let port = ports[peer];
                text.push_str(&format!(
                    "[[peers]]\nname = \"{peer_name}\"\nid = {}\npeer = \"127.0.0.1:{port}\"\ncontrol = \"127.0.0.1:1\"\n",
                    peer + 1
                ));
            }
            let config = home.join("repl.toml");
            std::fs::write(&config, text).unwrap();
            let loaded = Config::load(Some(&config), &[]).unwrap();
            let identity = Identity { cluster, site: SiteName::new(*name).unwrap(), role: Role::Shipper };
            let issued = authority.issue(&identity, Validity::lasting(SystemTime::now(), Validity::LEAF)).unwrap();
            ca::install(loaded.tls_dir(), Role::Shipper, authority.cert_pem(), &issued).unwrap();
            let socket = loaded.shipper_socket();
            let mut site = Site { id: index as u32 + 1, name, config, socket, process: None };
            site.spawn();
            all.push(site);
        }
        Self { _dir: dir, all }
    }

    /// As enrolled, each with number and name.
    pub(crate) fn enrolled(&self) -> Vec<v1::EnrolledSite> {
        let site = |site: &Site| v1::EnrolledSite { id: site.id, name: site.name.into(), ..Default::default() };
        self.all.iter().map(site).collect()
    }

    /// What every site is told while the site at `primary` has `epoch`; the lease is added for it alone.
    pub(crate) fn directive(&self, history: &[(u64, u32)]) -> v1::Directive {
        let (epoch, primary) = *history.last().unwrap();
        let members = self.all.iter().map(|site| site.id).collect();
        v1::Directive {
            epoch,
            primary_site: self.all[primary as usize - 1].name.into(),
            opened: history.iter().map(|(epoch, site)| v1::Opened { epoch: *epoch, site: *site }).collect(),
            incarnation: 1,
            rules: vec![v1::AckRule { id: 1, copies: 0, members }],
            sites: self.enrolled(),
            ..Default::default()
        }
    }
}

impl Site {
    pub(crate) fn spawn(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.config.with_file_name("shipper.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cfs-shipper"));
        command.arg("--config").arg(&self.config).stdin(Stdio::null()).stderr(log).env_remove("RUST_LOG");
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.process.as_ref().unwrap().id();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    }

    pub(crate) async fn channel(&self) -> Channel {
        let until = Instant::now() + PATIENCE;
        loop {
            match cfs_rpc::unix::connect(&self.socket).await {
                Ok(channel) => return channel,
                Err(error) => assert!(Instant::now() < until, "{}: {error}", self.name),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn control(&self) -> Control {
        Control::attend(self.channel().await).await
    }

    pub(crate) async fn status(&self) -> v1::StatusReply {
        let mut client = InspectClient::new(self.channel().await);
        client.status(v1::StatusRequest::default()).await.unwrap().into_inner()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.config.with_file_name("shipper.log")).unwrap_or_default();
            eprintln!("--- {} ---\n{log}", self.name);
        }
    }
}

pub(crate) fn boot_ns() -> u64 {
    RealClock.boot().as_nanos() as u64
}

/// A lease from now.
pub(crate) fn lease(ms: u64) -> u64 {
    boot_ns() + ms * 1_000_000
}

/// A control process.
pub(crate) struct Control {
    out: mpsc::Sender<v1::Directive>,
    reports: tonic::Streaming<v1::ShipperReport>,
    number: u64,
}

impl Control {
    async fn attend(channel: Channel) -> Self {
        let (out, directives) = mpsc::channel(4);
        let mut client = GovernorClient::new(channel);
        let reports = client.attend(ReceiverStream::new(directives)).await.unwrap().into_inner();
        Self { out, reports, number: 0 }
    }

    /// Hands a directive over and returns the first report that answers it.
    pub(crate) async fn order(&mut self, directive: v1::Directive) -> v1::ShipperReport {
        self.number += 1;
        let number = self.number;
        self.out.send(v1::Directive { number, ..directive }).await.unwrap();
        self.until("an answer", |report| report.directive == number || !report.refused.is_empty()).await
    }

    pub(crate) async fn report(&mut self) -> Result<v1::ShipperReport, tonic::Status> {
        let report = tokio::time::timeout(PATIENCE, self.reports.message()).await.expect("a report in time");
        report.map(|report| report.expect("the session goes on"))
    }

    pub(crate) async fn until(&mut self, what: &str, is_it: impl Fn(&v1::ShipperReport) -> bool) -> v1::ShipperReport {
        let until = Instant::now() + PATIENCE;
        loop {
            let report = self.report().await.unwrap();
            if is_it(&report) {
                return report;
            }
            assert!(Instant::now() < until, "waited for {what}: {report:?}");
        }
    }
}

/// (durable, applied) of a site's first stream in a report.
pub(crate) fn cursor(report: &v1::ShipperReport, site: u32) -> (u64, u64) {
    let of = |state: &&v1::StreamState| state.durable.is_some_and(|p| p.site == site && p.incarnation == 1);
    report.streams.iter().find(of).map_or((0, 0), |s| (s.durable.unwrap().lsn, s.applied_lsn))
}

pub(crate) fn position(site: u32, lsn: u64) -> StreamPosition {
    StreamPosition { site, incarnation: 1, lsn }
}

/// One producer's session.
pub(crate) struct Producer {
    out: mpsc::Sender<v1::AppendRequest>,
    responses: tonic::Streaming<v1::AppendResponse>,
    pub(crate) highest_seq: u64,
}

impl Producer {
    /// Says hello; an error is the refusal.
    pub(crate) async fn hello(site: &Site, name: &str, durability: &str) -> Result<Self, v1::Refusal> {
        let (out, requests) = mpsc::channel(16);
        let hello = v1::ProducerHello {
            protocol: 1,
            producer: name.into(),
            durability: durability.into(),
            ..Default::default()
        };
        out.send(v1::AppendRequest { kind: Some(Request::Hello(hello)) }).await.unwrap();
        let mut client = ProducerClient::new(site.channel().await);
        let mut responses = client.append(ReceiverStream::new(requests)).await.unwrap().into_inner();
        match responses.message().await.unwrap().unwrap().kind.unwrap() {
            Response::Hello(reply) => Ok(Self { out, responses, highest_seq: reply.highest_seq }),
            Response::Refusal(refusal) => Err(refusal),
            Response::Ack(_) => panic!("an ack before hello"),
        }
    }

    pub(crate) async fn append(&self, epoch: u64, first_seq: u64, ops: &[Op]) {
        let entries = ops.iter().map(|op| op.encode_to_vec().into()).collect();
        let entries = v1::AppendEntries { epoch, first_seq, entries };
        let _ = self.out.send(v1::AppendRequest { kind: Some(Request::Entries(entries)) }).await;
    }

    /// The next answer; `None` if none comes within `within`, or the session is over.
    pub(crate) async fn answer(&mut self, within: Duration) -> Option<Response> {
        let message = tokio::time::timeout(within, self.responses.message()).await.ok()?;
        message.ok().flatten().and_then(|response| response.kind)
    }

    /// Waits until everything up to `seq` is acknowledged.
    pub(crate) async fn acked(&mut self, seq: u64) {
        loop {
            match self.answer(PATIENCE).await {
                Some(Response::Ack(ack)) if ack.through_seq >= seq => return,
                Some(Response::Ack(_)) => {}
                other => panic!("no ack for {seq}: {other:?}"),
            }
        }
    }
}

/// Makes a file under the root.
pub(crate) fn create(inode: u64) -> Op {
    let kind = Kind::Create(Create {
        parent: 1,
        name: format!("file-{inode}").into_bytes().into(),
        inode,
        kind: InodeKind::File.into(),
        attributes: Some(Attributes { mode: Some(0o644), ..Default::default() }),
        device: 0,
    });
    Op { kind: Some(kind) }
}

/// Sets a file's mode.
pub(crate) fn chmod(inode: u64, mode: u32) -> Op {
    let attributes = Some(Attributes { mode: Some(mode), ..Default::default() });
    Op { kind: Some(Kind::SetAttr(SetAttr { inode, attributes })) }
}
