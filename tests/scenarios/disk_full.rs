//! A disk that fills up, and one that has room again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{Op, SetXattr};
use cfs_rpc::v1::append_response::Kind as Response;
use cfs_rpc::v1::refusal::Reason;
use prost::Message;
use rand::RngCore;

use crate::harness::{Cluster, PATIENCE, eventually, is_root, skipped};
use crate::producers::{Session, entry, socket};

/// A file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Self, String> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs"]).arg(at).output();
        let mount = mount.map_err(|e| e.to_string())?;
        if mount.status.success() {
            Ok(Self(at.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&mount.stderr).into())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Moves the state of a stopped site to a small disk.
fn shrink(cluster: &Cluster, site: &str) -> Result<SmallDisk, String> {
    let (state, before) = (cluster.path(site, "state"), cluster.path(site, "state-before"));
    fs::rename(&state, &before).unwrap();
    fs::create_dir(&state).unwrap();
    let mounted = SmallDisk::mount(&state);
    let from = if mounted.is_ok() {
        before.join(".")
    } else {
        fs::remove_dir(&state).unwrap();
        before.clone()
    };
    let copied = Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(&state).status().unwrap();
    assert!(copied.success());
    mounted
}

/// 2 KiB that no codec makes smaller.
pub(crate) fn incompressible(inode: u64) -> Bytes {
    let mut value = vec![0; 2048];
    rand::rng().fill_bytes(&mut value);
    let set = SetXattr { inode, name: Bytes::from_static(b"user.noise"), value: value.into() };
    Op { kind: Some(Kind::SetXattr(set)) }.encode_to_vec().into()
}

/// Invariant 4: a full disk refuses before it fails. Nothing acknowledged is lost, reading goes on also after a restart,
/// and appends resume by themselves when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers() {
    if !is_root() {
        return skipped("a full disk: mounting a small one takes root");
    }
    let cluster = Cluster::up();
    cluster.stop("site-a");
    let config = cluster.path("site-a", "repl.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[journal]\nsegment = \"1MiB\"\n\n[disk]\nreserve = \"8MiB\"\n")).unwrap();
    let _disk = match shrink(&cluster, "site-a") {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("a full disk: a small one cannot be mounted here: {why}")),
    };
    // What every site has goes by itself when the disk is nearly full: site-b is away, so that nothing can go.
    cluster.stop("site-b");
    cluster.start("site-a");
    let ballast = cluster.path("site-a", "state/ballast");
    let acked = fill(&cluster, &ballast).await;

    let status = cluster.status("site-a");
    assert_eq!(status["status"], "READ_ONLY", "{status}");
    assert!(status["why"].as_str().is_some_and(|why| why.contains("free")), "{status}");
    cluster.stop("site-a");
    let said = cluster.dev(&["start", "site-a"]);
    assert!(said.code == 0 && said.err.contains("READ_ONLY"), "{said:?}");
    eventually("the site to answer read-only after a restart", PATIENCE, || {
        let said = cluster.at("site-a", &["admin", "replication", "status", "-o", "json"]);
        if said.out.contains("READ_ONLY") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let looked_up = cluster.at("site-a", &["admin", "meta", "lookup", "1000001", "-o", "json"]);
    assert_eq!(looked_up.code, 0, "{looked_up:?}");

    fs::remove_file(&ballast).unwrap();
    eventually("appends to resume", PATIENCE, || {
        let status = cluster.status("site-a")["status"].clone();
        if status == "READY" { Ok(()) } else { Err(status.to_string()) }
    });
    let (mut session, reply) = Session::hello(&socket(&cluster, "site-a"), "filler", "").await;
    assert!(reply.highest_seq >= acked, "{acked} entries were acknowledged, {} are held", reply.highest_seq);
    session.append(reply.role.unwrap().epoch, reply.highest_seq + 1, vec![incompressible(1_000_001)]).await;
    session.acked(reply.highest_seq + 1).await;
    cluster.start("site-b");
    cluster.expect_identical();
    let dumped = cluster.at("site-b", &["journal", "dump", "--stream", "site-a", "-o", "jsonl"]).ok();
    assert_eq!(dumped.matches("\"filler\"").count() as u64, reply.highest_seq + 1, "each entry is there once");
}

/// A site whose disk is full is refused before the cluster counts on it, and comes in once there is room.
#[test]
fn a_site_with_a_full_disk_is_not_enrolled() {
    if !is_root() {
        return skipped("a small disk is mounted, which only root may do");
    }
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let left = cluster.admin("site-c", &["shutdown", "--graceful", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}\n{}", cluster.logs());
    cluster.stop("site-c");
    let _disk = match shrink(&cluster, "site-c") {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("a small disk cannot be mounted here: {why}")),
    };
    let ballast = cluster.path("site-c", "state").join("ballast");
    let stat = rustix::fs::statvfs(ballast.parent().unwrap()).unwrap();
    let file = fs::File::create(&ballast).unwrap();
    let most = (stat.f_bavail * stat.f_frsize).saturating_sub(4 << 20);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, most).unwrap();
    drop(file);
    let _ = cluster.dev(&["start", "site-c"]);
    let history = cluster.admin("site-a", &["history", "-o", "jsonl"]).ok();
    let refused = cluster.admin("site-c", &["enroll", "--primary", "site-a"]);
    assert!(refused.code != 0 && refused.err.contains("[DISK_FULL]"), "{refused:?}\n{}", cluster.logs());
    assert_eq!(cluster.admin("site-a", &["history", "-o", "jsonl"]).ok(), history, "nothing was changed");
    assert!(!cluster.status("site-a")["peers"].to_string().contains("site-c"), "it is no member");

    fs::remove_file(&ballast).unwrap();
    eventually("the site to be enrolled", PATIENCE, || {
        let said = cluster.admin("site-c", &["enroll", "--primary", "site-a"]);
        if said.code == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    cluster.expect_identical();
}

/// Appends until the site refuses; returns how many entries it acknowledged.
async fn fill(cluster: &Cluster, ballast: &Path) -> u64 {
    let (mut session, reply) = Session::hello(&socket(cluster, "site-a"), "filler", "").await;
    let epoch = reply.role.unwrap().epoch;
    session.append(epoch, 1, vec![entry(1)]).await;
    session.acked(1).await;
    let stat = rustix::fs::statvfs(ballast.parent().unwrap()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let file = fs::File::create(ballast).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free.saturating_sub(24 << 20)).unwrap();
    let mut acked = 1;
    loop {
        assert!(acked < 40_000, "96 MiB held {acked} entries of 2 KiB");
        session.append(epoch, acked + 1, (0..100).map(|_| incompressible(1_000_001)).collect()).await;
        loop {
            match session.answer().await {
                Ok(Some(Response::Ack(ack))) => {
                    acked = ack.through_seq;
                    if acked % 100 == 1 {
                        break;
                    }
                }
                Ok(Some(Response::Refusal(refusal))) => match refusal.reason {
                    Some(Reason::Backpressure(why)) => {
                        assert!(why.why.contains("free") && why.retry_after_ms > 0, "{why:?}");
                        return acked;
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
