use cfs_rpc::v1::SiteVerdict;

use super::*;

fn report(verdicts: &[(&str, &str)]) -> Report {
    let sites = verdicts.iter().enumerate().map(|(i, (verdict, why))| SiteVerdict {
        site: format!("site-{i}"),
        verdict: (*verdict).to_owned(),
        why: (*why).to_owned(),
        ..SiteVerdict::default()
    });
    Report::of(ConsistencyReply { site: "site-x".to_owned(), sites: sites.collect(), ..ConsistencyReply::default() })
}

#[test]
fn a_store_out_of_order_is_named_with_both_ways() {
    let reply = ConsistencyReply { disordered: vec!["site-b".to_owned()], ..ConsistencyReply::default() };
    let next = Report::of(reply).next().expect("a way");
    assert!(next.contains("--repair on site-b") && next.contains("--force-rebuild"), "{next}");
}

#[test]
fn damage_that_nothing_locates_is_not_left_without_a_way() {
    let reply = ConsistencyReply { damage_here: "its registers are not what it keeps".into(), ..Default::default() };
    let next = Report::of(reply).next().expect("a way");
    assert!(next.contains("names the inodes") && next.contains("--force-rebuild"), "{next}");
    assert_eq!(report(&[(MATCH, "")]).next(), None);
}

#[test]
fn a_match_is_never_claimed_without_evidence() {
    assert_eq!(report(&[(MATCH, "")]).result_line(), "RESULT: MATCH");
    assert_eq!(report(&[]).result_line(), "RESULT: NOT COMPARED(site-x, it knows of no other site)");
    let one_down = report(&[(MATCH, ""), (NOT_COMPARED, "it did not answer")]);
    assert_eq!(one_down.result_line(), "RESULT: NOT COMPARED(site-1, it did not answer)");
    assert_eq!(report(&[(NOT_COMPARED, ""), (DIFFER, "inode 5")]).result_line(), "RESULT: DIFFER");
}
