use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_owner_reaches_a_socket() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("run/shipper.sock");
    let _listener = bind(&path).expect("bound");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&dir.path().join("run")), 0o700);
}

#[tokio::test]
async fn a_socket_in_use_is_kept_and_a_stale_one_replaced() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("shipper.sock");
    let listener = bind(&path).expect("bound");
    assert!(matches!(bind(&path), Err(Error::InUse(_))));
    drop(listener);
    assert!(path.exists(), "a dead process leaves its socket behind");
    let _again = bind(&path).expect("a stale socket is replaced");

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(matches!(bind(&file), Err(Error::NotASocket(_))));
    assert_eq!(std::fs::read(&file).expect("kept"), b"precious");
}

#[tokio::test]
async fn a_daemon_that_is_down_is_named_by_its_socket() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("shipper.sock");
    let missing = connect(&path).await.expect_err("nobody there").to_string();
    assert!(missing.contains("shipper.sock") && missing.contains("running?"), "{missing}");
    drop(bind(&path).expect("bound"));
    assert!(matches!(connect(&path).await, Err(Error::Down { .. })));
}

/// Invariant 9 on one machine.
#[test]
fn only_our_user_and_root_may_speak() {
    assert!(may_speak(1000, 1000) && may_speak(0, 1000));
    assert!(!may_speak(1001, 1000) && !may_speak(1000, 0));
}

#[tokio::test]
async fn handlers_see_the_local_caller() {
    use tokio_stream::StreamExt;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("shipper.sock");
    let mut incoming = incoming(bind(&path).expect("bound"));
    let _client = UnixStream::connect(&path).await.expect("connected");
    let io = incoming.next().await.expect("a connection").expect("accepted");
    assert_eq!(io.peer().uid, rustix::process::geteuid().as_raw());
    assert_eq!(io.peer().pid, i32::try_from(std::process::id()).ok());
}
