//! Whatever happens in whatever order, all sites end alike: invariants 5, 7 and 8.

use cfs_model::op::{InodeKind, Op};
use proptest::prelude::*;

use super::stream::*;
use super::world::{SITES, World};

#[derive(Debug, Clone)]
enum Step {
    Write { site: usize, skew: u64, ops: Vec<Op> },
    Deliver { to: usize, pick: usize, n: usize },
    Repeat { to: usize, pick: usize, n: usize },
    RaiseEpoch(usize),
    Reincarnate(usize),
    Forget(usize),
    Copy { from: usize, to: usize, bytes: usize },
    Restart(usize),
}

/// Few inodes and names, so that nearly everything conflicts.
fn any_op() -> impl Strategy<Value = Op> {
    let parent = 1..4u64;
    let inode = 2..6u64;
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let xattr = prop::sample::select(vec!["user.x", "user.y"]);
    prop_oneof![
        4 => (parent.clone(), name.clone(), inode.clone(), 0..8u32).prop_map(|(p, n, i, m)| create(p, n, i, m)),
        2 => (parent.clone(), name.clone(), inode.clone()).prop_map(|(p, n, i)| mkdir(p, n, i)),
        1 => (parent.clone(), name.clone(), inode.clone()).prop_map(|(p, n, i)| symlink(p, n, i, "target")),
        2 => (parent.clone(), name.clone(), inode.clone()).prop_map(|(p, n, i)| link(p, n, i)),
        4 => (parent.clone(), name.clone(), inode.clone(), any::<bool>()).prop_map(|(p, n, i, l)| unlink(p, n, i, l)),
        1 => (parent.clone(), name.clone(), inode.clone()).prop_map(|(p, n, i)| rmdir(p, n, i)),
        3 => ((parent.clone(), name.clone()), (parent, name), inode.clone(), 0..6u64)
            .prop_map(|(from, to, i, replaced)| rename(from, to, i, InodeKind::Directory, replaced)),
        2 => (inode.clone(), 0..9u64).prop_map(|(i, size)| write(i, size, "extents")),
        1 => (inode.clone(), 0..9u64).prop_map(|(i, size)| truncate(i, size)),
        3 => (inode.clone(), 0..8u32).prop_map(|(i, m)| chmod(i, m)),
        3 => (inode.clone(), xattr.clone(), 0..9u8).prop_map(|(i, n, v)| set_xattr(i, n, &v.to_string())),
        2 => (inode, xattr).prop_map(|(i, n)| remove_xattr(i, n)),
        1 => Just(make_root()),
    ]
}

/// One inode that lives, dies and lives again, with its attributes.
fn any_op_of_one_inode() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..8u32).prop_map(|m| create(1, "a", 2, m)),
        2 => Just(unlink(1, "a", 2, true)),
        1 => (0..8u32).prop_map(|m| chmod(2, m)),
        2 => (0..9u8).prop_map(|v| set_xattr(2, "user.x", &v.to_string())),
        1 => Just(remove_xattr(2, "user.x")),
    ]
}

fn any_step(op: impl Strategy<Value = Op>) -> impl Strategy<Value = Step> {
    let site = 0..SITES;
    let pick = 0..8usize;
    prop_oneof![
        8 => (site.clone(), 0..3u64, prop::collection::vec(op, 1..4))
            .prop_map(|(site, skew, ops)| Step::Write { site, skew, ops }),
        8 => (site.clone(), pick.clone(), 1..4usize).prop_map(|(to, pick, n)| Step::Deliver { to, pick, n }),
        1 => (site.clone(), pick, 1..4usize).prop_map(|(to, pick, n)| Step::Repeat { to, pick, n }),
        1 => site.clone().prop_map(Step::RaiseEpoch),
        1 => site.clone().prop_map(Step::Reincarnate),
        3 => site.clone().prop_map(Step::Forget),
        3 => (site.clone(), site.clone(), 50..600usize).prop_map(|(from, to, bytes)| Step::Copy { from, to, bytes }),
        1 => site.prop_map(Step::Restart),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Write { site, skew, ops } => world.write(site, skew, &ops),
        Step::Deliver { to, pick, n } => drop(world.deliver(to, pick, n)),
        Step::Repeat { to, pick, n } => world.repeat(to, pick, n),
        Step::RaiseEpoch(site) => world.raise_epoch(site),
        Step::Reincarnate(site) => world.reincarnate(site),
        Step::Forget(site) => world.forget(site),
        Step::Copy { from, to, bytes } => world.copy(from, to, bytes),
        Step::Restart(site) => world.restart(site),
    }
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    for step in steps {
        take(&mut world, step);
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2000, failure_persistence: None, ..Default::default() })]

    /// Invariants 5, 7, 8, and that the store agrees with the definitions of DESIGN's merge.
    #[test]
    fn sites_converge(steps in prop::collection::vec(any_step(any_op()), 1..90)) {
        run(steps);
    }

    /// The same where everything meets in one inode.
    #[test]
    fn sites_converge_on_one_inode(steps in prop::collection::vec(any_step(any_op_of_one_inode()), 1..70)) {
        run(steps);
    }
}

/// How many worlds: `PROPTEST_CASES`, or enough for every run of the tests.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(96)
}
