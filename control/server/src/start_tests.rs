//! What a shipper's state tells of its site's past.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::Evidence;

#[test]
fn a_shipper_that_has_heard_of_epochs_is_no_member_for_that() {
    let place = tempfile::tempdir().unwrap();
    let evidence = |was_member, knows_epochs| Evidence { was_member, knows_epochs };
    assert_eq!(Evidence::of(place.path()), evidence(false, false));
    for (kept, expected) in [
        (r#"{"floor":0,"history":{},"incarnation":null,"opened":false}"#, evidence(false, false)),
        (r#"{"floor":1,"history":{"1":1},"incarnation":null,"opened":false}"#, evidence(false, true)),
        (r#"{"floor":1,"history":{"1":1},"incarnation":1,"opened":false}"#, evidence(true, true)),
        ("damaged", evidence(true, true)),
    ] {
        std::fs::write(place.path().join("governed.json"), kept).unwrap();
        assert_eq!(Evidence::of(place.path()), expected, "{kept}");
    }
}
