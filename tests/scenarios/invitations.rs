//! A site without certificates is invited, and whoever is not gets nothing.

use std::fs;
use std::time::{Duration, SystemTime};

use cfs_rpc::ca::Validity;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::Role;
use cfs_rpc::join::{self, Token};
use cfs_rpc::net::RealNet;
use cfs_rpc::v1::control_client::ControlClient;
use cfs_rpc::v1::enrollment_client::EnrollmentClient;
use cfs_rpc::v1::{self, AuthoritiesRequest, RedeemRequest};
use serde_json::Value;
use tonic::Code;

use crate::bad_input::copy;
use crate::harness::{Cluster, PATIENCE, eventually};
use crate::peers::{authority, certificates, identity};

/// What is in a site's tls directory.
fn held(cluster: &Cluster, site: &str) -> Vec<String> {
    let entries = fs::read_dir(cluster.path(site, "state/tls")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn invite(cluster: &Cluster, at: &str, words: &[&str]) -> Value {
    eventually("an invitation", PATIENCE, || {
        let said = cluster.admin(at, &[&["invite", "site-c", "-o", "json"], words].concat());
        if said.code == 0 { Ok(said.json()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    })
}

fn token(invitation: &Value) -> Token {
    invitation["token"].as_str().expect("a token").parse().expect("it reads")
}

fn enroll(cluster: &Cluster, site: &str, token: &str) -> String {
    let before = held(cluster, site);
    let text = cluster.admin(site, &["enroll", "--primary", "site-a", "--token", token]).failed();
    assert!(text.contains("next:"), "{text}");
    assert_eq!(held(cluster, site), before, "something was changed: {text}");
    text
}

/// Invariant 9: a token lets in the site that it names, once, in time, and nobody else; whoever shows no certificate reaches no
/// other service.
#[tokio::test(flavor = "multi_thread")]
async fn only_an_invited_site_gets_certificates() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let text = eventually("the lack of a key to be named", PATIENCE, || {
        let text = cluster.admin("site-a", &["invite", "site-d"]).failed();
        if text.contains("NO_SIGNER") { Ok(text) } else { Err(format!("{text}\n{}", cluster.logs())) }
    });
    assert!(text.contains("NO_SIGNER") && text.contains("authority's key") && text.contains("next:"), "{text}");
    // The authority's key comes to site-b, which its control process notices.
    copy(&cluster.dir().join("ca"), &cluster.path("site-b", "ca"));
    eventually("the key to be noticed", PATIENCE, || {
        let text = cluster.admin("site-a", &["invite", "site-c"]).failed();
        if text.contains("enrolled already") { Ok(()) } else { Err(format!("{text}\n{}", cluster.logs())) }
    });
    // From now on site-c is a machine with a configuration and nothing else.
    cluster.kill("site-c");
    cluster.admin("site-a", &["remove", "site-c", "--force", "--yes"]).ok();
    fs::remove_dir_all(cluster.path("site-c", "state")).expect("removed");
    // Lacking certificates it is told what to do.
    let text = cluster.admin("site-c", &["enroll", "--primary", "site-a"]).failed();
    assert!(text.contains("invite site-c"), "{text}");

    let invitation = invite(&cluster, "site-b", &[]);
    let good = token(&invitation);
    assert_eq!(good.pin, invitation["ca_pin"].as_str().expect("a pin"));
    bad_tokens_change_nothing(&cluster, &good).await;
    the_good_one_is_good_once(&cluster, &good).await;
    strangers_reach_one_service(&cluster, &good).await;
}

async fn bad_tokens_change_nothing(cluster: &Cluster, good: &Token) {
    let says = |token: &Token, word: &str| {
        let text = enroll(cluster, "site-c", &token.to_string());
        assert!(text.contains(word), "{word:?} is not in {text}");
    };
    assert!(enroll(cluster, "site-c", "cfs1.nonsense").contains("CFS-E130"));
    // The token of another site, and another cluster's.
    assert!(enroll(cluster, "site-b", &good.to_string()).contains("it is for site-c, this is site-b"));
    says(&Token { site: "site-d".into(), ..good.clone() }, "it is for site-d, this is site-c");
    let other = cfs_model::ClusterId([9; 16]).to_string();
    says(&Token { cluster: other, ..good.clone() }, "it is of cluster");
    // Somebody else answers: the token is not shown to them.
    says(&Token { pin: "00".repeat(32), ..good.clone() }, "the token was not sent to it");
    let forged = Token::new_secret(&cfs_rpc::clock::OsRandomness).expect("random");
    says(&Token { secret: forged, ..good.clone() }, "no invitation");
    let short = token(&invite(cluster, "site-a", &["--ttl", "1s"]));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    says(&short, "has expired");
    let text = cluster.admin("site-a", &["invite", "site-c", "--ttl", "2h"]).failed();
    assert!(text.contains("1h"), "{text}");
}

async fn the_good_one_is_good_once(cluster: &Cluster, good: &Token) {
    let text = good.to_string();
    let words = ["admin", "replication", "enroll", "--primary", "site-a", "--token", &text];
    let enrolling = cluster.spawn("site-c", &words);
    eventually("certificates to be installed", PATIENCE, || {
        let names = held(cluster, "site-c");
        let whole = names.iter().filter(|name| name.ends_with(".pem") || name.ends_with(".key")).count() == 9;
        if whole && names.len() == 9 { Ok(()) } else { Err(format!("{names:?}\n{}", cluster.logs())) }
    });
    // As its service manager would.
    cluster.start("site-c");
    let said = enrolling.finish();
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    cluster.wait_ready();
    cluster.converge();
    assert!(enroll(cluster, "site-c", &text).contains("CFS-E132"), "it has certificates now");
    // A second use, with keys of somebody who has seen the token.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let own = identity(authority(cluster).cluster(), "site-c", Role::Control);
    let requests = cfs_rpc::renewal::prepare(elsewhere.path(), &own, &[Role::Control]).expect("prepared");
    let request = RedeemRequest {
        cluster: good.cluster.clone(),
        site: good.site.clone(),
        secret: good.secret_bytes().expect("a secret").into(),
        requests: requests.into_iter().map(Into::into).collect(),
    };
    let again = join::redeem(RealNet::shared(), good, &good.address, request, SystemTime::now()).await;
    let error = again.expect_err("refused").to_string();
    assert!(error.contains("used already"), "{error}");
    let log = cluster.sites().map(|site| cluster.control_log(site)).collect::<String>();
    assert!(!log.contains(&good.secret), "the secret is in a log");
}

/// Every call between control processes, without a certificate; and the other way round.
async fn strangers_reach_one_service(cluster: &Cluster, good: &Token) {
    let (channel, _) = join::stranger(RealNet::shared(), &good.via, &good.address).await.expect("connected");
    let mut control = ControlClient::new(channel.clone());
    let codes = [
        control.raft(v1::RaftRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.pre_vote(v1::PreVoteRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.take_over(v1::TakeOverRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.report(v1::SiteReport::default()).await.map(|_| ()).expect_err("refused").code(),
        control.order(v1::OrderRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.join(v1::JoinRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.contact(v1::ContactRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.admin(v1::AdminRequest::default()).await.map(|_| ()).expect_err("refused").code(),
        control.propose(v1::ProposeRequest::default()).await.map(|_| ()).expect_err("refused").code(),
    ];
    assert_eq!(codes, [Code::Unimplemented; 9]);
    let told = EnrollmentClient::new(channel).authorities(AuthoritiesRequest {}).await.expect("answered").into_inner();
    assert!(told.authorities.contains("BEGIN CERTIFICATE") && !told.authorities.contains("PRIVATE"));
    let ours = authority(cluster);
    let valid = Validity::lasting(SystemTime::now(), Duration::from_secs(3600));
    let via = identity(ours.cluster(), &good.via, Role::Control);
    let other = if good.via == "site-b" { "site-a" } else { "site-b" };
    let tls = certificates(&ours, other, Role::Control, valid, ours.cert_pem());
    let channel = Connector::new(RealNet::shared(), tls).dial(&good.address, &via).await.expect("connected");
    let refused = EnrollmentClient::new(channel).authorities(AuthoritiesRequest {}).await.expect_err("not here");
    assert_eq!(refused.code(), Code::Unimplemented);
    // No protocol that takes strangers at the shippers' port.
    let peer = format!("127.0.0.1:{}", cluster.port("site-a", "peer"));
    assert!(join::stranger(RealNet::shared(), "site-a", &peer).await.is_err());
}
