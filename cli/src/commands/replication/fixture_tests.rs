//! Two data sites and a witness, all well, as both processes of site-a tell it.

use cfs_model::op::StreamPosition;
use cfs_rpc::v1::{
    LeaseStatus, PeerStatus, ProcessUsage, Reach, SiteStatus, StatusAnswer, StatusReply, StreamCursor, StreamState,
};
use serde::Serialize;

use super::ask::Answer;
use super::gather::{Configured, Gathered};
use crate::output::{Document, Format, write_document};

pub(super) fn site(name: &str, id: u32, role: &str) -> SiteStatus {
    let streams = vec![StreamState {
        durable: Some(StreamPosition { site: 1, incarnation: 1, lsn: 9 }),
        applied_lsn: 9,
        first_lsn: 1,
    }];
    SiteStatus {
        site: name.into(),
        site_id: id,
        witness: role == "WITNESS",
        state: "READY".into(),
        role: role.into(),
        voter: true,
        enrolled: true,
        age_ms: if id == 1 { 0 } else { 120 },
        reported_by: name.into(),
        epoch: 3,
        floor: 3,
        lag_known: role != "WITNESS",
        clock_skew_ms: Some(0),
        version: "0.1.0".into(),
        node: u64::from(id) * 11,
        counts: role != "WITNESS",
        streams: if role == "WITNESS" { Vec::new() } else { streams },
        ..SiteStatus::default()
    }
}

pub(super) fn answer() -> StatusAnswer {
    StatusAnswer {
        here: Some(site("site-a", 1, "PRIMARY")),
        sites: vec![site("site-b", 2, "REPLICA"), SiteStatus { leader: true, ..site("site-w", 3, "WITNESS") }],
        cluster: "the-cluster".into(),
        group: 77,
        epoch: 3,
        primary: "site-a".into(),
        lease: Some(LeaseStatus { held: true, left_ms: 812, lease_ms: 1000 }),
        automatic: true,
        leader: "site-w".into(),
        leader_age_ms: 40,
        quorum: "ok".into(),
        shipper: Some(shipper()),
        durability: "local".into(),
        process: Some(ProcessUsage { pid: 8, ..ProcessUsage::default() }),
        version: "0.1.0".into(),
        reach: vec![Reach { from: "site-b".into(), to: "site-a".into(), age_ms: 70, shippers: true }],
        ..StatusAnswer::default()
    }
}

pub(super) fn shipper() -> StatusReply {
    let cursor = StreamCursor {
        site: 1,
        incarnation: 1,
        source: 9,
        durable: 9,
        applied: 9,
        state: "idle".into(),
        site_name: "site-a".into(),
        ..StreamCursor::default()
    };
    let peer = PeerStatus {
        site: "site-b".into(),
        site_id: 2,
        state: "HEALTHY".into(),
        lag_known: true,
        heard_ms: 200,
        rtt_us: 90,
        cursors: vec![cursor.clone()],
        ..PeerStatus::default()
    };
    StatusReply {
        site: "site-a".into(),
        site_id: 1,
        cluster: "the-cluster".into(),
        status: "READY".into(),
        role: "PRIMARY".into(),
        epoch: 3,
        primary: "site-a".into(),
        cursors: vec![cursor],
        peers: vec![peer],
        process: Some(ProcessUsage { pid: 7, ..ProcessUsage::default() }),
        floor: 3,
        version: "0.1.0".into(),
        entries_appended: 9,
        ..StatusReply::default()
    }
}

fn configured(site: &str, peer: &str) -> Configured {
    Configured { site: site.into(), peer: peer.into(), witness: peer.is_empty() }
}

/// What both say of a cluster that `change` was done to.
pub(super) fn gathered(change: impl FnOnce(&mut StatusAnswer)) -> Gathered {
    let mut body = answer();
    change(&mut body);
    Gathered {
        shipper: body.shipper.clone(),
        useless_certificates: body.useless_certificates.clone(),
        control: Some(Answer { by: "site-a".into(), unreachable: Vec::new(), body }),
        control_error: String::new(),
        shipper_error: String::new(),
        configured: vec![configured("site-b", "10.0.0.2:9600"), configured("site-w", "")],
    }
}

/// The same when the control process does not answer.
pub(super) fn shipper_alone() -> Gathered {
    Gathered { control: None, control_error: "nothing answers".into(), ..gathered(|_| {}) }
}

pub(super) fn table<D: Document>(document: &D) -> String {
    let mut out = anstream::StripStream::new(Vec::new());
    write_document(&mut out, Format::Table, document).expect("memory does not fail");
    String::from_utf8(out.into_inner()).expect("text")
}

pub(super) fn json<D: Document + Serialize>(document: &D) -> serde_json::Value {
    let mut out = Vec::new();
    write_document(&mut out, Format::Json, document).expect("memory does not fail");
    serde_json::from_slice(&out).expect("JSON")
}
