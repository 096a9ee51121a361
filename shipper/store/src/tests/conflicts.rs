//! The conflicts of two sites that write while they are cut apart, in every order in which a third one can hear of them:
//! invariants 5 and 7 hold in each, and what came of it does not depend on the order.

use std::collections::BTreeSet;

use cfs_model::op::{InodeKind, Op};

use super::stream::*;
use super::world::World;

/// Directories 2 and 3, files 4 and 5, before the cut.
fn tree() -> [Op; 5] {
    [make_root(), mkdir(1, "d", 2), mkdir(1, "e", 3), create(1, "f", 4, 0o600), create(1, "g", 5, 0o600)]
}

fn moved(from: &str, inode: u64, to: u64) -> Op {
    rename((1, from), (to, from), inode, InodeKind::Directory, 0)
}

/// What the two sites write, a batch for each operation.
fn cases() -> Vec<(&'static str, Vec<Op>, Vec<Op>)> {
    vec![
        (
            "the same names",
            vec![create(1, "x", 6, 0o600), mkdir(1, "y", 7), symlink(1, "z", 8, "one")],
            vec![create(1, "x", 16, 0o644), create(1, "y", 17, 0o644), create(1, "z", 18, 0o644)],
        ),
        (
            "a directory into the other",
            vec![moved("d", 2, 3), chmod(2, 0o700), create(2, "in", 6, 0o600)],
            vec![moved("e", 3, 2), chmod(3, 0o700), create(3, "in", 7, 0o600)],
        ),
        (
            "a file that goes here and is written there",
            vec![unlink(1, "f", 4, true), create(1, "f", 4, 0o640), unlink(1, "f", 4, true)],
            vec![chmod(4, 0o644), write(4, 9, "extents"), link(1, "h", 4)],
        ),
        (
            "a directory that goes here and is filled there",
            vec![rmdir(1, "d", 2), mkdir(1, "d", 12), chmod(12, 0o700)],
            vec![create(2, "in", 6, 0o600), chmod(2, 0o711), set_xattr(2, "user.x", "1")],
        ),
        (
            "one attribute, one name moved to two places",
            vec![chmod(5, 0o600), rename((1, "g"), (2, "g"), 5, InodeKind::File, 0), set_xattr(5, "user.x", "1")],
            vec![chmod(5, 0o644), rename((1, "g"), (3, "g"), 5, InodeKind::File, 0), remove_xattr(5, "user.x")],
        ),
    ]
}

/// All ways to interleave `one` batches of the first site with `other` of the second.
fn orders(one: usize, other: usize) -> Vec<Vec<usize>> {
    match (one, other) {
        (0, 0) => vec![Vec::new()],
        _ => {
            let with = |site: usize, rest: Vec<Vec<usize>>| {
                rest.into_iter().map(move |order| [vec![site], order].concat()).collect::<Vec<_>>()
            };
            let first = if one > 0 { with(0, orders(one - 1, other)) } else { Vec::new() };
            let second = if other > 0 { with(1, orders(one, other - 1)) } else { Vec::new() };
            [first, second].concat()
        }
    }
}

/// Both sites hold the tree, write apart, and a third hears of it in this order; then everybody of everything.
fn run(one: &[Op], other: &[Op], order: &[usize]) -> World {
    let mut world = World::new();
    world.write(0, 0, &tree());
    for to in [1, 2] {
        assert!(world.deliver(to, 0, 1));
    }
    for op in one {
        world.write(0, 0, std::slice::from_ref(op));
    }
    for op in other {
        world.write(1, 0, std::slice::from_ref(op));
    }
    for from in order {
        assert!(world.deliver(2, *from, 1), "{order:?}");
    }
    world.settle();
    world
}

#[test]
fn every_conflict_ends_alike_in_every_order() {
    let all = orders(3, 3);
    assert_eq!(all.len(), 20);
    for (what, one, other) in cases() {
        let mut roots = BTreeSet::new();
        for order in &all {
            roots.insert(run(&one, &other, order).root());
        }
        assert_eq!(roots.len(), 1, "{what}");
        let world = run(&one, &other, &all[0]);
        assert!(!world.lost().is_empty() || !world.is_sound(), "{what}: nothing met");
    }
}

/// Two directories in each other hang in the air at every site alike. An entry of any site mends that for all.
#[test]
fn directories_moved_into_each_other_are_found_and_mended_by_an_entry() {
    let (_, one, other) = cases().swap_remove(1);
    for order in orders(3, 3).into_iter().step_by(4) {
        let mut world = run(&one, &other, &order);
        assert_eq!(world.detached(), [2, 3], "{order:?}");
        world.write(1, 0, &[rename((3, "d"), (1, "d"), 2, InodeKind::Directory, 0)]);
        world.settle();
        assert!(world.detached().is_empty(), "{order:?}");
    }
}
