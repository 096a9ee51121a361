use cfs_model::Incarnation;

use super::*;

const OWN: StreamId = StreamId { site: SiteId(2), incarnation: Incarnation(1) };
const OTHER: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };

fn vector(positions: &[(StreamId, u64)]) -> Vector {
    positions.iter().map(|(stream, lsn)| (*stream, Lsn(*lsn))).collect()
}

/// Invariant 4: what the site had of others it must hold again, even if they are not heard; of its own only what can be had.
#[test]
fn what_was_held_must_be_held_again_and_what_is_only_here_is_named() {
    let here = vector(&[(OWN, 9), (OTHER, 5)]);
    let of = |others: &[(StreamId, u64)], closed: &[(StreamId, u64)]| {
        let closed = closed.iter().map(|(stream, lsn)| (*stream, Lsn(*lsn))).collect();
        let split = split_of(SiteId(2), &here, &vector(others), &closed);
        (split.held, split.only_here)
    };
    assert_eq!(of(&[(OWN, 9), (OTHER, 7)], &[]), (here.clone(), vector(&[])));
    assert_eq!(of(&[(OWN, 4), (OTHER, 7)], &[]), (vector(&[(OWN, 4), (OTHER, 5)]), vector(&[(OWN, 9)])));
    assert_eq!(of(&[], &[]), (vector(&[(OTHER, 5)]), here.clone()), "nobody is heard");
    let ended = of(&[(OWN, 4), (OTHER, 5)], &[(OWN, 4)]);
    assert_eq!(ended, (vector(&[(OWN, 4), (OTHER, 5)]), vector(&[])), "nothing counts behind the end of a stream");
}

#[test]
fn a_rebuilt_site_lacks_what_it_held_until_it_is_applied_or_the_stream_ends_before() {
    let held = vector(&[(OTHER, 5)]);
    let lacking = |applied, closed: &[(StreamId, Lsn)]| {
        first_lacking(&held, &vector(&[(OTHER, applied)]), &closed.iter().copied().collect())
    };
    assert_eq!(lacking(4, &[]), Some((OTHER, Lsn(5))));
    assert_eq!(lacking(5, &[]), None);
    assert_eq!(lacking(4, &[(OTHER, Lsn(4))]), None);
}

fn config(dir: &Path) -> Config {
    let text = format!(
        "[cluster]\nid = \"00000000-0000-4000-8000-000000000001\"\n[site]\nname = \"site-b\"\nid = 2\n[paths]\nstate = \
         \"{0}/state\"\nrun = \"{0}/run\"\n",
        dir.display()
    );
    std::fs::write(dir.join("repl.toml"), text).unwrap();
    Config::load(Some(&dir.join("repl.toml")), &[]).unwrap()
}

/// A kill may come anywhere: the order is carried out once, and the incarnation of the old data is not gone on with.
#[test]
fn an_order_is_carried_out_by_the_next_start_and_outlasts_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let directory = config.paths.state.join("shipper");
    for made in [config.journal_dir(), config.meta_dir()] {
        cfs_rpc::private_file::create_directory(made).unwrap();
        std::fs::write(made.join("old"), b"damaged").unwrap();
    }
    let governed = Governed::load(&directory).unwrap();
    let directive = v1::Directive { incarnation: 3, ..v1::Directive::default() };
    governed.take(SiteId(2), None, &directive).unwrap();
    assert!(at_start(&config, &governed, 1).unwrap().is_none(), "there is no order");
    assert!(!governed.needs_another_incarnation());

    let directories = [config.journal_dir(), config.meta_dir()];
    Order::new(&directories, "site-a", "", vector(&[(OTHER, 5)]), 7).write(&directory).unwrap();
    let order = at_start(&config, &governed, 8).unwrap().expect("the order");
    assert_eq!(order.stage, Stage::Moved);
    assert!(!config.journal_dir().exists() && !config.meta_dir().exists());
    for made in directories {
        std::fs::create_dir(made).unwrap();
    }
    // The process is killed and starts again: what is new stays.
    let governed = Governed::load(&directory).unwrap();
    assert!(governed.needs_another_incarnation());
    assert_eq!(at_start(&config, &governed, 9).unwrap(), Some(order.clone()));
    assert!(config.journal_dir().exists() && order.moves.iter().all(|(_, to)| to.join("old").exists()));
    governed.take(SiteId(2), None, &v1::Directive { incarnation: 4, ..directive }).unwrap();
    assert!(!governed.needs_another_incarnation(), "another was allotted");

    let kept = Order { keep_why: "it is only here".into(), ..order.clone() };
    let left = ended(kept, &directory).unwrap().expect("it is kept");
    assert!(fate(&left).contains("kept because it is only here"), "{}", fate(&left));
    assert_eq!(Order::read(&directory).unwrap(), Some(left));
    assert_eq!(ended(order.clone(), &directory).unwrap(), None);
    assert!(order.moves.iter().all(|(_, to)| !to.exists()));
    assert_eq!(Order::read(&directory).unwrap(), None);
}

/// Invariant 1: a primary does not leave, and who leaves is primary no more.
#[test]
fn a_primary_is_not_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let opened = vec![v1::Opened { epoch: 1, site: 2 }];
    let primary =
        v1::Directive { epoch: 1, primary: true, lease_deadline_boot_ns: 100, opened, ..v1::Directive::default() };
    governed.take(SiteId(2), None, &primary).unwrap();
    assert!(governed.may_append(50).is_some());
    assert!(!governed.leave(true), "it is primary");
    assert!(governed.may_append(50).is_some());
    governed.take(SiteId(2), None, &v1::Directive { primary: false, ..primary.clone() }).unwrap();
    assert!(governed.leave(true));
    governed.take(SiteId(2), None, &primary).unwrap();
    assert_eq!(governed.may_append(50), None, "it is about to lose its data");
    governed.leave(false);
    assert!(governed.may_append(50).is_some());
}
