use std::sync::Arc;

use super::*;

async fn lines(input: &[u8]) -> Vec<Result<Vec<u8>, String>> {
    // A small buffer, so that lines span several.
    let mut reader = BufReader::with_capacity(7, input);
    let mut found = Vec::new();
    while let Some(line) = next_line(&mut reader).await.expect("memory is readable") {
        found.push(line);
    }
    found
}

#[tokio::test]
async fn lines_are_split_and_the_last_needs_no_end() {
    let found = lines(b"one line\n\n\xff\nlast").await;
    assert_eq!(found, [&b"one line"[..], b"", b"\xff", b"last"].map(|line| Ok(line.to_vec())));
    assert!(lines(b"").await.is_empty());
}

/// Invariant 10: a line without end takes no more than its bound.
#[tokio::test]
async fn a_line_that_is_too_long_is_skipped() {
    let mut input = vec![b'x'; MAX_LINE_BYTES + 1];
    input.extend_from_slice(b"\nnext\n");
    let found = lines(&input).await;
    assert!(found[0].as_ref().is_err_and(|why| why.contains("limit")), "{found:?}");
    assert_eq!(found[1], Ok(b"next".to_vec()));
}

#[test]
fn outcomes_say_what_happened() {
    let entry = Bytes::from_static(b"x");
    let why = Arc::new(cfs_client::Fatal::Closed);
    let gave_up = Arc::new(Fatal::GaveUp { after: follow::PATIENCE, why: "fenced".into() });
    for (error, status, reason) in [
        (Error::Invalid { why: "bad".into(), entry: entry.clone() }, "refused", "invalid"),
        (Error::TooLong { entry }, "refused", "invalid"),
        (Error::Unknown(why.clone()), "unknown", "not_acknowledged"),
        (Error::NotAppended(why), "refused", "not_appended"),
        (Error::NotAppended(gave_up), "refused", "timeout"),
        (Error::NotAppended(Arc::new(Fatal::Fenced { pinned: Epoch(1), current: Epoch(2) })), "refused", "fenced"),
    ] {
        let outcome = Outcome::of(3, &error);
        assert_eq!((outcome.status, outcome.reason, outcome.line), (status, Some(reason), 3));
    }
    let outcome = Outcome::of(1, &Error::Invalid { why: "bad".into(), entry: Bytes::new() });
    let json = serde_json::to_string(&outcome).expect("JSON");
    assert_eq!(json, r#"{"line":1,"status":"refused","reason":"invalid","why":"bad"}"#);
}
