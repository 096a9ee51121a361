use std::pin::Pin;

use cfs_rpc::v1::admin_server::{Admin, AdminServer};
use cfs_rpc::v1::{AdminReply, Progress};
use futures::Stream;
use tonic::{Request as Call, Response, Status};

use super::*;

/// Answers every request with the same replies, and then never ends the conversation.
struct Says(Vec<Reply>);

#[tonic::async_trait]
impl Admin for Says {
    type DoStream = Pin<Box<dyn Stream<Item = Result<AdminReply, Status>> + Send>>;

    async fn r#do(&self, _: Call<AdminRequest>) -> Result<Response<Self::DoStream>, Status> {
        let reply = |kind: &Reply| Ok(AdminReply { kind: Some(kind.clone()), ..AdminReply::default() });
        let replies: Vec<_> = self.0.iter().map(reply).collect();
        let open = futures::StreamExt::chain(futures::stream::iter(replies), futures::stream::pending());
        Ok(Response::new(Box::pin(open)))
    }
}

struct Process {
    dir: tempfile::TempDir,
}

impl Process {
    fn that_says(replies: Vec<Reply>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = cfs_rpc::unix::bind(&dir.path().join("control.sock")).expect("a socket");
        let server = cfs_rpc::http2::server().add_service(AdminServer::new(Says(replies)));
        tokio::spawn(server.serve_with_incoming(cfs_rpc::unix::incoming(listener)));
        Self { dir }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("control.sock")
    }
}

fn progress() -> Reply {
    Reply::Progress(Progress { phase: "ready".to_owned(), ..Progress::default() })
}

fn refusal() -> Reply {
    Reply::Failed(Failed {
        what: "site-b was not enrolled".to_owned(),
        why: "no quorum".to_owned(),
        next: "start site-a".to_owned(),
        ..Failed::default()
    })
}

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn progress_is_waited_through_to_the_end() {
    let process = Process::that_says(vec![progress(), progress(), Reply::Done(Done::default())]);
    enroll(&process.socket(), "site-a", false, LIMIT).await.expect("done");
    let status = StatusAnswer { leader: "site-w".to_owned(), ..StatusAnswer::default() };
    let process = Process::that_says(vec![Reply::Status(status)]);
    assert_eq!(ask(&process.socket()).await.expect("an answer").leader, "site-w");
}

#[tokio::test]
async fn a_refusal_says_what_why_and_what_next() {
    let process = Process::that_says(vec![progress(), refusal()]);
    let error = enroll(&process.socket(), "site-a", false, LIMIT).await.expect_err("refused");
    assert_eq!(error.to_string(), "site-b was not enrolled; no quorum; start site-a");
}

#[tokio::test]
async fn nobody_is_waited_for_without_end() {
    let process = Process::that_says(vec![progress()]);
    let error = enroll(&process.socket(), "site-a", false, Duration::from_millis(100)).await.expect_err("too slow");
    assert!(matches!(error, Error::Slow(_)), "{error}");
    let nobody = process.dir.path().join("nobody.sock");
    assert!(matches!(ask(&nobody).await, Err(Error::Unreachable(_))));
    let process = Process::that_says(vec![Reply::Done(Done::default())]);
    assert!(matches!(ask(&process.socket()).await, Err(Error::Unexpected)));
}
