#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use cfs_model::{ClusterId, Epoch, SiteName};

use super::*;
use crate::command::{Command, Founding};
use crate::report::Report;
use crate::state::{Settings, Site};

const A: SiteId = SiteId(1);
const B: SiteId = SiteId(2);
const W: SiteId = SiteId(9);
const OLD: Level = Level::FIRST;
const NEW: Level = Level::THIS;

fn site(id: SiteId) -> Site {
    Site {
        id,
        name: SiteName::new(format!("site-{}", id.0)).unwrap(),
        witness: id == W,
        node: 1,
        peer: String::new(),
        producer: String::new(),
        control: String::new(),
        http: String::new(),
        priority: 100,
    }
}

/// Two data sites and a witness that were founded by the version before this one.
fn cluster() -> State {
    let mut state = State::default();
    let found = Founding {
        cluster: ClusterId([7; 16]),
        group: 5,
        site: site(A),
        settings: Settings::default(),
        level: OLD,
        parent: None,
    };
    let kinds = [Kind::Found(Box::new(found)), Kind::Enrol { site: site(B) }, Kind::Enrol { site: site(W) }];
    for kind in kinds {
        state.apply(&Command { at_ms: 1, by: "test".into(), kind });
    }
    state
}

fn shipper(level: Level) -> Option<Shipper> {
    Some(Shipper { level, ..Shipper::default() })
}

/// What the leader wants of the level, having heard these.
fn wanted(state: &State, reports: &[(SiteId, Level, Option<Shipper>)], now_ms: u64) -> Option<Level> {
    let mut leader = Coordinator::new(W, 0);
    for (id, level, shipper) in reports {
        let node = state.site(*id).unwrap().node;
        let (level, shipper) = (*level, shipper.clone());
        let report = Report { site: *id, node, instance: 1, sequence: 1, shipper, resigned: Epoch(0), level };
        leader.heard(state, report, 1000);
    }
    match raise(&leader, state, now_ms)? {
        Kind::Raise { level, nodes } => {
            assert_eq!(nodes, state.sites.values().map(|site| site.node).collect::<Vec<_>>());
            Some(level)
        }
        other => panic!("{other:?}"),
    }
}

/// What the older cannot do waits until all are upgraded, both processes of each site.
#[test]
fn the_level_rises_once_every_process_of_every_member_knows_it() {
    let state = cluster();
    let all = [(A, NEW, shipper(NEW)), (B, NEW, shipper(NEW)), (W, NEW, None)];
    assert_eq!(wanted(&state, &all, 1100), Some(NEW));
    assert_eq!(wanted(&state, &all, 60_000), None, "heard long ago");
    assert_eq!(wanted(&state, &all[..2], 1100), None, "the witness was not heard");
    for (older, what) in [
        ((A, NEW, shipper(OLD)), "a shipper"),
        ((A, OLD, shipper(NEW)), "a control process"),
        ((A, NEW, None), "a shipper that is not heard"),
    ] {
        let reports = [older, all[1].clone(), all[2].clone()];
        assert_eq!(wanted(&state, &reports, 1100), None, "{what}");
    }
    let ahead = Level(NEW.0 + 1);
    let newer = [(A, ahead, shipper(ahead)), (B, ahead, shipper(ahead)), (W, ahead, None)];
    assert_eq!(wanted(&state, &newer, 1100), Some(NEW), "no more than the leader itself knows");
}
