use cfs_rpc::v1::{Blocker, ContestedRegister};

use super::super::fixture_tests::{json, table};
use super::*;

fn plan(force: bool, change: impl FnOnce(&mut FailoverPlan)) -> Plan {
    let mut body = FailoverPlan {
        from: "site-a".into(),
        to: "site-b".into(),
        kind: "switchover".into(),
        epoch_before: 3,
        epoch_after: 4,
        steps: vec!["site-a drains".into(), "site-b opens epoch 4".into()],
        risk_known: true,
        predicted_gap_ms: 40,
        ..FailoverPlan::default()
    };
    change(&mut body);
    Plan::of(Answer { by: "site-w".into(), unreachable: vec!["site-c".into()], body }, force)
}

fn blocker(forceable: bool) -> Blocker {
    Blocker { code: "CFS-F007".into(), why: "it is 9000 entries behind".into(), next: "wait".into(), forceable }
}

#[test]
fn the_dry_run_shows_plan_risk_gap_and_blockers() {
    let text = table(&plan(false, |p| {
        p.blockers.push(blocker(true));
        p.entries_at_risk = 12;
        p.bytes_at_risk = 3456;
        p.bytes_known = true;
        p.values_at_risk = 3;
        let register =
            |path: &str, register: &str| ContestedRegister { path: path.into(), inode: 7, register: register.into() };
        p.losing = vec![register("/a/b", "mode"), register("", "xattr user.x")];
    }));
    for part in [
        "Change of primary (switchover): site-a -> site-b\n",
        "Epoch: 3 -> 4\n",
        "Step 2: site-b opens epoch 4\n",
        "At risk: 12 entries, at most 3456 bytes\n",
        "Registers that would lose the merge: 3; --prefer site-b writes the values of site-b again\n  /a/b: mode\n  inode 7: xattr \
         user.x\n  and 1 more\n",
        "Predicted write gap: 40ms\n",
        "Blocker: [CFS-F007] it is 9000 entries behind (--force overrides it)\n    next: wait\n",
        "Unreachable: site-c\n",
        "Answered by: site-w\n",
        "Dry run: BLOCKED; nothing was changed\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(table(&plan(false, |p| p.risk_known = false)).contains("At risk: not known\n"));
    let unsized_risk = table(&plan(false, |p| p.entries_at_risk = 12));
    assert!(unsized_risk.contains("At risk: 12 entries, of a size that is not known\n"), "{unsized_risk}");
    let value = json(&plan(false, |p| p.risk_known = false));
    assert!(value["entries_at_risk"].is_null() && value["blocked"] == false, "{value}");
    assert_eq!((&value["values_at_risk"], &value["predicted_gap_ms"]), (&0.into(), &40.into()), "{value}");
    let silent = plan(true, |p| {
        p.gap_not_known = "site-b does not answer".into();
        p.apply_not_known = "its shipper does not answer".into();
        p.values_not_known = "it takes too long".into();
    });
    let text = table(&silent);
    assert!(text.contains("Predicted write gap: not known: site-b does not answer\n"), "{text}");
    assert!(text.contains("Entries to apply first: not known: its shipper does not answer\n"), "{text}");
    assert!(text.contains("Registers that would lose the merge: not known: it takes too long"), "{text}");
    let value = json(&silent);
    assert!(value["values_at_risk"].is_null() && value["predicted_gap_ms"].is_null(), "{value}");
    assert!(value["entries_to_apply"].is_null(), "{value}");
}

#[test]
fn force_overrides_only_what_it_may() {
    let refusal = |force, forceable| {
        let plan = plan(force, |p| p.blockers.push(blocker(forceable)));
        assert_eq!(plan.is_blocked(), plan.refusal("cfs").is_some());
        plan.refusal("cfs").map(|refusal| refusal.to_string())
    };
    assert_eq!(refusal(true, true), None);
    assert_eq!(
        refusal(false, true).as_deref(),
        Some("site-b was not made primary: it is 9000 entries behind\n  next: wait; --force overrides it")
    );
    for force in [false, true] {
        assert_eq!(
            refusal(force, false).as_deref(),
            Some("site-b was not made primary: it is 9000 entries behind\n  next: wait")
        );
    }
    assert!(
        !plan(false, |p| {
            p.already = true;
            p.blockers.push(blocker(false));
        })
        .is_blocked()
    );
}

#[test]
fn the_question_shows_before_after_and_what_is_suspended() {
    let text = plan(true, |p| {
        p.kind = "force".into();
        p.warnings.push("site-a may still accept writes".into());
        p.blockers.push(blocker(true));
        p.values_at_risk = 7;
    })
    .before_and_after();
    for part in [
        "before: primary site-a, epoch 3",
        "after:  primary site-b, epoch 4",
        "site-a: PRIMARY -> REPLICA",
        "site-b: REPLICA -> PRIMARY",
        "warning: site-a may still accept writes",
        "overridden by --force: [CFS-F007]",
        "Registers that would lose the merge: 7",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A bare 0 would say that nothing can be missing, although the primary went on after its last word.
#[test]
fn what_a_primary_may_have_taken_since_is_no_zero() {
    let lost = |change: fn(&mut FailoverPlan)| {
        plan(true, |p| {
            (p.risk_at_least, p.risk_age_ms, p.bytes_known) = (true, 840, true);
            change(p);
        })
    };
    let none = lost(|_| {});
    let said = "At risk: at least 0 entries, by the last word of site-a, 0.8 s ago; what it took since is not known\n";
    assert!(table(&none).contains(said), "{}", table(&none));
    let value = json(&none);
    assert!(value["entries_at_risk"].is_null() && value["bytes_at_risk"].is_null(), "{value}");
    assert_eq!(value["at_least"], serde_json::json!({ "entries": 0, "bytes": 0, "age_ms": 840 }));
    assert!(value["acknowledged_at_risk"].is_null(), "{value}");
    let some = table(&lost(|p| (p.entries_at_risk, p.bytes_at_risk) = (3, 700)));
    assert!(some.contains("At risk: at least 3 entries, at most 700 bytes, by the last word of site-a"), "{some}");
    let remote = lost(|p| p.acknowledged_is_safe = true);
    assert!(table(&remote).contains("is not known; none that was acknowledged:"), "{}", table(&remote));
    assert_eq!(json(&remote)["acknowledged_at_risk"], 0);
    let exact = json(&plan(false, |p| p.bytes_known = true));
    assert_eq!((&exact["entries_at_risk"], &exact["acknowledged_at_risk"]), (&0.into(), &0.into()));
    assert!(exact["at_least"].is_null(), "{exact}");
}

#[test]
fn a_seal_and_a_primary_that_goes_on_open_no_epoch() {
    let seal = |p: &mut FailoverPlan| {
        (p.kind, p.epoch_after, p.risk_known) = ("seal".into(), 3, false);
        p.gap_not_known = "site-b does not answer".into();
    };
    let text = plan(true, seal).before_and_after();
    assert!(text.starts_with("Seal of site-w, for site-b\n"), "{text}");
    assert!(text.contains("after:  site-b alone takes appends, once it is primary there\n"), "{text}");
    assert!(text.contains("site-w: sealed\n") && !text.contains("PRIMARY"), "{text}");
    let text = table(&plan(true, seal));
    assert!(text.contains("Epoch: 3, and no other opens by this\n"), "{text}");

    let goes_on = |p: &mut FailoverPlan| {
        (p.kind, p.to, p.epoch_after, p.already) = ("none".into(), "site-a".into(), 3, true);
    };
    let text = plan(false, goes_on).before_and_after();
    assert!(text.contains("after:  primary site-a, epoch 3\n"), "{text}");
    assert!(text.contains("site-a: PRIMARY, goes on in this epoch\n") && !text.contains("new epoch"), "{text}");
}
