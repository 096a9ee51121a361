//! A control process that answers by the script, on a Unix socket in a directory of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::admin_server::{Admin, AdminServer};
use cfs_rpc::v1::{AdminReply, AdminRequest, admin_reply};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// What comes in answer, one after another.
#[derive(Clone)]
pub(crate) enum Step {
    Say(Box<admin_reply::Kind>),
    Wait(Duration),
    /// The conversation breaks off.
    Break(Status),
}

type Script = Arc<dyn Fn(&Kind) -> Vec<Step> + Send + Sync>;
type Asked = Arc<Mutex<Vec<AdminRequest>>>;

struct Fake {
    script: Script,
    asked: Asked,
}

#[tonic::async_trait]
impl Admin for Fake {
    type DoStream = Pin<Box<dyn Stream<Item = Result<AdminReply, Status>> + Send>>;

    async fn r#do(&self, request: Request<AdminRequest>) -> Result<Response<Self::DoStream>, Status> {
        let request = request.into_inner();
        let steps = (self.script)(request.kind.as_ref().expect("a kind"));
        self.asked.lock().expect("sound").push(request);
        let replies = futures::stream::iter(steps).filter_map(|step| async move {
            match step {
                Step::Say(kind) => Some(Ok(AdminReply {
                    answered_by: "site-w".into(),
                    unreachable: vec!["site-c".into()],
                    kind: Some(*kind),
                })),
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    None
                }
                Step::Break(status) => Some(Err(status)),
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// A site whose control process is a fake, and whose shipper does not run.
pub(crate) struct Site {
    _dir: tempfile::TempDir,
    config: PathBuf,
    asked: Asked,
    _runtime: tokio::runtime::Runtime,
}

impl Site {
    pub(crate) fn with(script: impl Fn(&Kind) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("repl.toml");
        let content = format!(
            "[site]\nname = \"site-a\"\nid = 1\n[cluster]\nid = \"00010203-0405-0607-0809-0a0b0c0d0eff\"\n\
             [paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n",
            dir.path().display()
        );
        std::fs::write(&config, content).expect("writable");
        let asked = Asked::default();
        let fake = Fake { script: Arc::new(script), asked: asked.clone() };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let socket = dir.path().join("run/control.sock");
        let incoming =
            runtime.block_on(async { cfs_rpc::unix::incoming(cfs_rpc::unix::bind(&socket).expect("bound")) });
        let server = tonic::transport::Server::builder().add_service(AdminServer::new(fake));
        runtime.spawn(server.serve_with_incoming(incoming));
        Self { _dir: dir, config, asked, _runtime: runtime }
    }

    /// `cfs admin replication ARGS`, without a terminal.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cfs"));
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("CFS_"))
        {
            command.env_remove(name);
        }
        command.args(["admin", "replication"]).args(args).arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cfs starts")
    }

    /// Exit code, standard output, standard error.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        said(self.start(args).wait_with_output().expect("it ends"))
    }

    /// The same on a terminal on which `typed` is typed; both outputs are one.
    pub(crate) fn on_terminal(&self, args: &str, typed: &str) -> (i32, String) {
        let command = format!(
            "{} admin replication {args} --no-color --config {}",
            env!("CARGO_BIN_EXE_cfs"),
            self.config.display()
        );
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &command, "/dev/null"]);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script, of bsdutils");
        let mut terminal = child.stdin.take().expect("piped");
        terminal.write_all(typed.as_bytes()).expect("it reads");
        let (code, out, _) = said(child.wait_with_output().expect("it ends"));
        (code, out)
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Kind> {
        self.asked.lock().expect("sound").iter().filter_map(|request| request.kind.clone()).collect()
    }

    /// Who asked last.
    pub(crate) fn operator(&self) -> String {
        self.asked.lock().expect("sound").last().map(|request| request.operator.clone()).unwrap_or_default()
    }
}

pub(crate) fn said(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}
