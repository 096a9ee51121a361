use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

fn wanted(modules: &[&str], level: &str) -> Wanted {
    Wanted::parse(&modules.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), level).expect("it reads")
}

/// Everything that waits for the listener.
async fn heard(listener: &mut Listener) -> Vec<Heard> {
    let mut out = Vec::new();
    while let Ok(one) = tokio::time::timeout(Duration::from_millis(20), listener.next()).await {
        out.push(one);
    }
    out
}

fn texts(heard: &[Heard]) -> Vec<String> {
    let text = |one: &Heard| match one {
        Heard::Line(line) => line.text.clone(),
        Heard::Lost(lost) => format!("-{lost}"),
    };
    heard.iter().map(text).collect()
}

/// One test for all: a listener of another thread, whose subscriber is another, would change what is of interest here.
#[tokio::test(start_paused = true)]
async fn lines_are_heard_while_somebody_listens_and_cost_nothing_otherwise() {
    let taps = Arc::new(Taps::default());
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(taps.layer()));
    let mut made = 0;
    let mut say = |n: u64| {
        tracing::debug!(
            target: "cfs_shipper::path::commit",
            n,
            costly = {
                made += 1;
                "x"
            },
            "written"
        );
    };
    say(1);
    let mut listener = taps.listen(wanted(&["commit"], "debug")).expect("a place");
    let mut deaf = taps.listen(wanted(&["raft"], "trace")).expect("a place");
    say(2);
    tracing::trace!(target: "cfs_shipper::path::commit", "too fine");
    assert_eq!(texts(&heard(&mut listener).await), ["written n=2 costly=\"x\""]);
    assert!(heard(&mut deaf).await.is_empty());
    drop((listener, deaf));
    say(3);
    assert_eq!(made, 1, "an event was made although nobody listens");
    assert_eq!(taps.0.load().len(), 0);
    a_slow_reader(&taps).await;
    listeners_are_bounded_and_leave_their_place(&taps);
}

/// A slow reader loses lines, is told how many and where, and holds nobody up.
async fn a_slow_reader(taps: &Arc<Taps>) {
    let mut listener = taps.listen(wanted(&["apply"], "info")).expect("a place");
    let say = |n: usize| tracing::info!(target: "cfs_shipper::path::apply", "{n}");
    (0..QUEUE + 10).for_each(say);
    let first = listener.next().await;
    assert_eq!(texts(&[first]), ["0"]);
    say(QUEUE + 10);
    let rest = texts(&heard(&mut listener).await);
    assert_eq!(rest.len(), QUEUE + 1);
    assert_eq!(rest[QUEUE - 2..], [(QUEUE - 1).to_string(), "-10".to_owned(), (QUEUE + 10).to_string()]);
    // Nothing follows what was lost.
    (0..QUEUE + 3).for_each(say);
    let rest = texts(&heard(&mut listener).await);
    assert_eq!((rest.len(), rest.last().map(String::as_str)), (QUEUE + 1, Some("-3")));
}

fn listeners_are_bounded_and_leave_their_place(taps: &Arc<Taps>) {
    let mut listeners: Vec<Listener> =
        (0..MAX_LISTENERS).map(|_| taps.listen(wanted(&[], "debug")).expect("a place")).collect();
    assert_eq!(taps.listen(wanted(&[], "debug")).err(), Some(Full));
    assert_eq!(taps.0.load().len(), MAX_LISTENERS);
    listeners.pop();
    assert!(taps.listen(wanted(&[], "debug")).is_ok());
}
