//! `cfs journal import`.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_client::{Options, Producer, Target};
use cfs_model::Epoch;
use cfs_model::op::{InodeKind, StreamPosition};
use cfs_rpc::v1::StatusReply;
use cfs_shipper_core::caps::MAX_PRODUCER_BYTES;
use tokio::signal::unix::{SignalKind, signal};

use crate::tree::ROOT_NAME;
use crate::tree::compare::Gone;
use crate::tree::count::Count;
use crate::tree::disk::{Directory, DiskNode, raise_open_file_limit};
use crate::tree::emit::Emitter;
use crate::tree::follow::Follower;
use crate::tree::held::Store;
use crate::tree::progress::Progress;
use crate::tree::removal::Removal;
use crate::tree::report::Summary;
use crate::tree::walk::Walk;
use crate::tree::watch::Watcher;
use crate::{Context, client, follow, output};

/// Arguments of `cfs journal import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tree's root directory; other file systems mounted in it are not entered
    #[arg(long, value_name = "PATH")]
    tree: PathBuf,
    /// Keep up with changes until interrupted
    #[arg(long)]
    follow: bool,
    /// Replace another tree that the journal holds
    #[arg(long)]
    replace: bool,
    /// Append under this name instead of one made from the path
    #[arg(long, value_name = "NAME")]
    producer: Option<String>,
    /// Append at most so many entries a second
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Wait for more than the site's own durability: local or remote(K)
    #[arg(long, value_name = "DURABILITY", default_value = "")]
    durability: String,
    /// With --follow: compare the whole tree again every so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    rescan_interval: u64,
}

/// Runs the command. Exits with 1 if something could not be read or replicated.
///
/// # Errors
/// What happened, to what, and what to do next.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let tree = args.tree.canonicalize().with_context(|| format!("cannot import {}", args.tree.display()))?;
    raise_open_file_limit();
    let (root, node) = Directory::open_root(&tree).with_context(|| format!("cannot import {}", tree.display()))?;
    let store = Store::new(client::inspect(context).await?);
    let status = store.status().await?;
    anyhow::ensure!(
        ["PRIMARY", "ACTIVE"].contains(&status.role.as_str())
            || status.primary.is_empty()
            || status.primary == status.site,
        "{} is not primary, {} is (epoch {}): import there",
        status.site,
        status.primary,
        Epoch(status.epoch)
    );
    let producer = connect(context, &args, &tree, &status).await?;
    let summary = Summary::new(&tree);
    let mut emitter = Emitter::new(producer, args.rate, summary);
    let outcome = Import { args: &args, context, store: &store, emitter: &mut emitter, root, node }.run(&status).await;
    if outcome.is_ok() || emitter.summary.seen > 0 {
        emitter.summary.finish(started.elapsed());
        output::print(context.format(), &emitter.summary)?;
    }
    outcome?;
    Ok(if emitter.summary.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(context: &Context, args: &Args, tree: &Path, status: &StatusReply) -> anyhow::Result<Producer> {
    let name = args.producer.clone().unwrap_or_else(|| producer_name(tree));
    let options =
        Options { durability: args.durability.clone(), on_wait: Some(Arc::new(follow::say_why)), ..Options::default() };
    let socket = context.config()?.shipper_socket();
    let producer = Producer::connect(Target::Unix(socket), &name, options);
    tokio::select! {
        producer = producer => producer.map_err(|fatal| anyhow::anyhow!("{fatal}")),
        () = stopped() => anyhow::bail!("interrupted before {} took appends; nothing was appended", status.site),
    }
}

struct Import<'a> {
    args: &'a Args,
    context: &'a Context,
    store: &'a Store,
    emitter: &'a mut Emitter,
    root: Directory,
    node: DiskNode,
}

impl Import<'_> {
    async fn run(mut self, status: &StatusReply) -> anyhow::Result<()> {
        // What an earlier import appended may be durable and not applied yet.
        let applied = own_end(status);
        let fresh = self.clear(applied, status).await?;
        let watcher = if self.args.follow { Some(Watcher::start()?) } else { None };
        let count = Count::start(self.root.clone());
        let mut walk = Walk::new(self.store, self.emitter, fresh).shown(Progress::new(count));
        if let Some(watcher) = &watcher {
            watcher.begin_pass();
            walk = walk.watched(watcher.clone());
        }
        let position = tokio::select! {
            position = walk.run(self.root.clone(), self.node, applied) => position?,
            () = stopped() => {
                self.emitter.settle().await?;
                anyhow::bail!("interrupted before the whole tree was compared; run the import again to continue");
            }
        };
        let Some(watcher) = watcher else { return Ok(()) };
        watcher.end_pass();
        anstream::eprintln!("the journal holds the tree, following changes; stop with Ctrl-C");
        let follower = Follower {
            store: self.store,
            emitter: self.emitter,
            watcher,
            root: self.root,
            applied: position.or(applied),
            rescan_interval: Duration::from_secs(self.args.rescan_interval),
            verbose: self.context.verbose(),
            missed: HashMap::new(),
        };
        follower.run(stopped()).await
    }

    /// Makes sure that the store holds this tree or none. Returns whether it never held anything.
    async fn clear(&mut self, applied: Option<StreamPosition>, status: &StatusReply) -> anyhow::Result<bool> {
        let held = self.store.names(0, vec![ROOT_NAME], applied).await?;
        let Some(old) = held.get(&ROOT_NAME) else {
            return Ok(status.cursors.iter().all(|cursor| cursor.durable == 0 && cursor.applied == 0));
        };
        if old.inode == self.node.inode {
            return Ok(false);
        }
        anyhow::ensure!(
            self.args.replace,
            "the journal holds another tree: its root is inode {}, that of {} is {}; add --replace to remove that tree \
             and import this one",
            old.inode,
            self.args.tree.display(),
            self.node.inode
        );
        anstream::eprintln!("removing the tree that the journal holds");
        let (inode, kind) = (old.inode, InodeKind::Directory);
        let gone = Gone { parent: 0, name: ROOT_NAME, inode, kind, occupant: None };
        Removal::new(self.store, &|_| false).run(vec![gone], applied, self.emitter).await?;
        let removed = self.emitter.settle().await?.or(applied);
        self.store.names(0, vec![ROOT_NAME], removed).await?;
        Ok(false)
    }
}

/// Ends at SIGINT or SIGTERM.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The end of the site's own newest stream.
fn own_end(status: &StatusReply) -> Option<StreamPosition> {
    let own = status.cursors.iter().filter(|cursor| cursor.site == status.site_id);
    let newest = own.max_by_key(|cursor| cursor.incarnation)?;
    Some(StreamPosition { site: newest.site, incarnation: newest.incarnation, lsn: newest.durable })
}

/// The same for the same tree each time: under it the journal knows how far an earlier import came.
fn producer_name(tree: &Path) -> String {
    let bytes = tree.as_os_str().as_bytes();
    let name = format!("import:{}", tree.display());
    if std::str::from_utf8(bytes).is_ok() && name.len() <= MAX_PRODUCER_BYTES {
        return name;
    }
    // FNV-1a: it never changes, and two trees that are imported to one site rarely share more than their beginning.
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mut end = name.len().min(MAX_PRODUCER_BYTES - 17);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}#{hash:016x}", &name[..end])
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn producer_names_are_stable_and_short_enough() {
        assert_eq!(producer_name(Path::new("/usr/share")), "import:/usr/share");
        let long = format!("/{}", "\u{e9}".repeat(100));
        let (name, other) = (producer_name(Path::new(&long)), producer_name(Path::new(&format!("{long}x"))));
        assert!(name.len() <= MAX_PRODUCER_BYTES && other.len() <= MAX_PRODUCER_BYTES, "{name} {other}");
        assert_ne!(name, other);
        assert_eq!(name, producer_name(Path::new(&long)));
        assert_ne!(
            producer_name(Path::new(OsStr::from_bytes(b"/\xff"))),
            producer_name(Path::new(OsStr::from_bytes(b"/\xfe")))
        );
    }
}
