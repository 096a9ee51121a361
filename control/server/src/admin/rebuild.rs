//! `cfs admin replication enroll --primary SITE --force-rebuild`: the site's shipper puts its data aside and copies anew. If it
//! runs it is asked; if it does not, which is what a damaged store or journal comes to, its next start finds the order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cfs_config::Config;
use cfs_model::{SiteName, Vector};
use cfs_rpc::rebuild::{Order, Stage, bytes_of, check};
use cfs_rpc::v1::governor_client::GovernorClient;
use cfs_rpc::{private_file, v1};

use super::members::not_joined;
use super::{Out, failure};
use crate::control::{Control, blocking};
use crate::{membership, status};

/// A shipper that was just started is waited for so long.
const SHIPPER_LIMIT: Duration = Duration::from_secs(2);
/// A site that rejoined has told its shipper within this.
const TOLD_LIMIT: Duration = Duration::from_secs(5);
/// The shipper waits for other sites to pull what they lack, and then answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// What is known when it is asked for.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    here: &'a str,
    through: &'a str,
    witness: bool,
    member: bool,
    fenced: bool,
    primary: bool,
    /// Every site takes appends.
    shared: bool,
    /// `through` is enrolled, or in the configuration.
    known: bool,
    /// There is another site with data.
    others: bool,
}

/// Why it is refused at once: code, reason, what comes next.
fn refusal(facts: Facts<'_>) -> Option<(&'static str, String, &'static str)> {
    let Facts { here, through, .. } = facts;
    if facts.witness {
        let why = format!("{here} is a witness (site.kind): it stores nothing that could be rebuilt");
        return Some(("KIND", why, "run it on a site that stores data"));
    }
    if here == through {
        let next = "name another site that is enrolled: cfs admin replication enroll --primary SITE --force-rebuild";
        return Some(("ITSELF", "a site cannot be rebuilt from itself".into(), next));
    }
    // What is not a member yet may name a site that is looked up.
    let belongs = facts.member || facts.fenced;
    if belongs && !facts.known {
        let why = format!("{through} is neither enrolled nor in the configuration of {here}");
        return Some(("UNKNOWN_SITE", why, "cfs admin replication status --detailed"));
    }
    if facts.member && !facts.fenced && facts.shared {
        let why = format!("active-active is on, and {here} takes appends: its data are those that the others copy");
        let next = "cfs admin replication config --active-active-mode off, then a failover if this site is primary, then again";
        return Some(("ACTIVE_ACTIVE", why, next));
    }
    if facts.member && !facts.fenced && facts.primary {
        let why = format!("{here} is primary: its data are those that the others copy");
        return Some(("PRIMARY", why, "cfs admin replication failover --to SITE, then again"));
    }
    if facts.member && !facts.fenced && !facts.others {
        let why = format!("no other enrolled site stores data, so there is nothing to copy to {here}");
        return Some(("ALONE", why, "cfs admin replication status"));
    }
    None
}

/// Runs it.
pub(super) async fn run(control: &Arc<Control>, request: &v1::EnrollRequest, out: &Out) {
    let what = format!("rebuild {}", control.site());
    if super::members::is_sealed(control) {
        return out.failed(super::members::fenced(control, &what)).await;
    }
    let state = control.state();
    let fenced = control.local().is_fenced();
    let member =
        control.node().is_some() && state.site(control.id()).is_some() && !status::was_removed(control, &state);
    let through = SiteName::new(&request.primary);
    let facts = Facts {
        here: control.site().as_str(),
        through: &request.primary,
        witness: control.config.site.witness,
        member,
        fenced,
        primary: state.primary == Some(control.id()),
        shared: state.is_shared(),
        known: through.as_ref().is_ok_and(|site| control.others().contains_key(site)),
        others: state.data_sites().any(|site| site.id != control.id()),
    };
    if let Some((code, why, next)) = refusal(facts) {
        return out.failed(failure(code, &what, why, next)).await;
    }
    let mut keep_why = String::new();
    if !member || fenced {
        out.progress("enrolling", format!("asking {}", request.primary), 0, 0).await;
        let joined = match &through {
            Ok(site) => membership::join(control, site, fenced).await,
            Err(error) => Err(membership::Error::UnknownSite(error.to_string())),
        };
        if let Err(error) = joined {
            return out.failed(not_joined(control, &what, &request.primary, &error)).await;
        }
        if fenced {
            "it was a member of an older group".clone_into(&mut keep_why);
        }
        told(control).await;
    }
    out.progress("shipping", "what no other site holds, then the data are put aside", 0, 0).await;
    let mut outcome = order(control, &what, &request.primary, keep_why).await;
    if let Err(failed) = &mut outcome
        && (!member || fenced)
    {
        failed.changed = format!("{} is a member now", control.site());
    }
    match outcome {
        Ok(text) => out.done(v1::Done { text, epoch: control.state().epoch.0, ..v1::Done::default() }).await,
        Err(failed) => out.failed(failed).await,
    }
}

/// How far this site's shipper holds each stream, by its last word.
fn held_here(control: &Control) -> Vector {
    let report = control.shipper.borrow().report.clone();
    let streams = report.map(|report| report.streams).unwrap_or_default();
    let durable = streams.iter().filter_map(|state| state.durable.as_ref());
    durable.filter_map(|position| Some((position.stream()?, position.lsn()))).collect()
}

/// Why a site that has just joined must be rebuilt, by the word of its shipper, which learns here where streams end; `None`: it
/// need not, or its shipper does not run and says it in its status.
pub(super) async fn must(control: &Control) -> Option<String> {
    if control.config.site.witness {
        return None;
    }
    let joined_ms = control.boot_ms();
    runs(control).await;
    told(control).await;
    within(SHIPPER_LIMIT, || {
        let view = control.shipper.borrow();
        !view.connected || view.at_ms > joined_ms
    })
    .await;
    let report = control.shipper.borrow().report.clone();
    report.map(|report| report.must_rebuild).filter(|why| !why.is_empty())
}

/// Rebuilds a site that has just joined. Its old data stay, and are named.
pub(super) async fn after_joining(control: &Arc<Control>, what: &str, through: &str, why: &str, out: &Out) {
    out.progress("rebuilding", format!("{} cannot go on with its data: {why}", control.site()), 0, 0).await;
    match order(control, what, through, why.to_owned()).await {
        Ok(text) => out.done(v1::Done { text, epoch: control.state().epoch.0, ..v1::Done::default() }).await,
        Err(mut failed) => {
            failed.changed = format!("{} is a member now, and counts for nothing until it is rebuilt", control.site());
            failed.next = format!("cfs admin replication enroll --primary {through} --force-rebuild");
            out.failed(failed).await;
        }
    }
}

async fn within(limit: Duration, mut is_it: impl FnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if is_it() {
            return true;
        }
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn runs(control: &Control) -> bool {
    within(SHIPPER_LIMIT, || control.shipper.borrow().connected).await
}

/// Waits until the shipper, if it runs, knows the epoch of the group that this site has joined. If it does not in time, it judges by
/// what it knows, which is the safer way.
async fn told(control: &Control) {
    let knows = || {
        let epoch = control.state().epoch.0;
        let view = control.shipper.borrow();
        !view.connected || view.report.as_ref().is_some_and(|report| report.epoch == epoch)
    };
    within(TOLD_LIMIT, knows).await;
}

/// The shipper does it if it runs, else its next start.
async fn order(control: &Control, what: &str, through: &str, keep_why: String) -> Result<String, v1::Failed> {
    if runs(control).await {
        ask(control, what, through, keep_why).await
    } else {
        leave_order(control, what, through).await
    }
}

/// The shipper does it.
async fn ask(control: &Control, what: &str, through: &str, keep_why: String) -> Result<String, v1::Failed> {
    let next = "cfs admin replication bootstrap-status";
    let lost = |why: String| failure("SHIPPER", what, why, next);
    let channel = cfs_rpc::unix::connect(&control.config.shipper_socket()).await;
    let channel = channel.map_err(|error| lost(error.to_string()))?;
    let request = v1::RebuildRequest { through: through.to_owned(), keep_why };
    let reply = tokio::time::timeout(ANSWER_LIMIT, GovernorClient::new(channel).rebuild(request)).await;
    let reply = reply.map_err(|_| lost(format!("the shipper does not answer within {ANSWER_LIMIT:?}")))?;
    let reply = reply.map_err(|status| lost(format!("the shipper: {}", status.message())))?.into_inner();
    if reply.code.is_empty() { Ok(reply.text) } else { Err(failure(&reply.code, what, reply.why, reply.next)) }
}

/// The shipper's next start does it.
async fn leave_order(control: &Control, what: &str, through: &str) -> Result<String, v1::Failed> {
    let error = control.shipper.borrow().error.clone();
    // What it acknowledged to others, by its last word; what it wrote itself may be nowhere else.
    let held: Vector = held_here(control).iter().filter(|(stream, _)| stream.site != control.id()).collect();
    let (config, at_ms, through) = (control.config.clone(), control.wall_ms(), through.to_owned());
    // What others hold is not known here; a damaged store has about their size.
    let left = blocking(move || leave(&config, bytes_of(config.meta_dir()), &through, held, at_ms)).await;
    let left = left.unwrap_or_else(|error| Err(("STATE", error.to_string(), "journalctl -u claudefs-control")));
    match left {
        Ok(order) if order.stage == Stage::Again => Ok(format!(
            "the shipper of {site} does not run ({error}): when it starts it removes what it has copied, and copies another site's store anew; \
             the old data are aside as {aside}; unless it starts by itself: systemctl start claudefs-shipper; then follow it: cfs admin \
             replication bootstrap-status",
            site = control.site(),
            aside = order.aside()
        )),
        Ok(order) => Ok(format!(
            "the shipper of {site} does not run ({error}): when it starts it puts the old data aside as {aside}, where they stay, \
             and copies another site's store; unless it starts by itself: systemctl start claudefs-shipper; then follow \
             it: cfs admin replication bootstrap-status",
            site = control.site(),
            aside = order.aside()
        )),
        Err((code, why, next)) => Err(failure(code, what, why, next)),
    }
}

type NotLeft = (&'static str, String, &'static str);

/// Leaves the order for the next start of the shipper, unless there is one. Blocks.
fn leave(config: &Config, store_bytes: u64, through: &str, held: Vector, at_ms: u64) -> Result<Order, NotLeft> {
    let directory = config.paths.state.join("shipper");
    let state = |why: String| ("STATE", why, "journalctl -u claudefs-control");
    let given = Order::read(&directory)
        .map_err(|error| state(format!("{}: {error}: remove it", directory.join(cfs_rpc::rebuild::FILE).display())))?;
    match given {
        Some(order) if matches!(order.stage, Stage::Asked | Stage::Again) => return Ok(order),
        // What it has copied may be what keeps it from starting; nothing of that is nowhere else.
        Some(order) if order.stage == Stage::Moved => {
            let again = Order { stage: Stage::Again, ..order };
            again.write(&directory).map_err(|error| state(format!("the order cannot be kept: {error}")))?;
            return Ok(again);
        }
        _ => {}
    }
    let directories: [&Path; 2] = [config.journal_dir(), config.meta_dir()];
    check(&directories, store_bytes, config.disk.reserve_bytes)
        .map_err(|why| ("NO_ROOM", why, "free some space or enlarge the disk, then again"))?;
    let keep_why = "the shipper did not run, so it is not known what no other site holds";
    let order = Order::new(&directories, through, keep_why, held, at_ms);
    let written = private_file::create_directory(&directory).and_then(|()| order.write(&directory));
    written.map_err(|error| state(format!("the order cannot be kept: {error}")))?;
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'_> = Facts {
        here: "site-b",
        through: "site-a",
        witness: false,
        member: true,
        fenced: false,
        primary: false,
        shared: false,
        known: true,
        others: true,
    };

    fn code(facts: Facts<'_>) -> &'static str {
        refusal(facts).map_or("", |(code, why, next)| {
            assert!(!why.is_empty() && !next.is_empty());
            code
        })
    }

    #[test]
    fn what_cannot_be_rebuilt_is_refused() {
        assert_eq!(code(FACTS), "");
        assert_eq!(code(Facts { primary: true, ..FACTS }), "PRIMARY");
        assert_eq!(code(Facts { primary: true, fenced: true, ..FACTS }), "", "primary of a group that is over");
        assert_eq!(code(Facts { shared: true, ..FACTS }), "ACTIVE_ACTIVE");
        assert_eq!(code(Facts { witness: true, ..FACTS }), "KIND");
        assert_eq!(code(Facts { through: "site-b", known: false, ..FACTS }), "ITSELF");
        assert_eq!(code(Facts { known: false, ..FACTS }), "UNKNOWN_SITE");
        assert_eq!(code(Facts { known: false, member: false, others: false, ..FACTS }), "", "it is looked up");
        assert_eq!(code(Facts { others: false, ..FACTS }), "ALONE");
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

    #[test]
    fn an_order_is_left_once_and_kept_until_it_is_carried_out() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        std::fs::create_dir_all(config.meta_dir()).unwrap();
        let first = leave(&config, 0, "site-a", Vector::new(), 7).unwrap();
        assert!(!first.keep_why.is_empty(), "what only this site holds is not known");
        assert_eq!(leave(&config, 0, "site-a", Vector::new(), 8).unwrap(), first);
        let directory = config.paths.state.join("shipper");
        Order { stage: Stage::Moved, ..first.clone() }.write(&directory).unwrap();
        let again = leave(&config, 0, "site-a", Vector::new(), 9).unwrap();
        assert_eq!(
            (again.stage, again.at_ms, &again.moves),
            (Stage::Again, 7, &first.moves),
            "the old data stay aside"
        );
        Order { stage: Stage::Kept, ..first }.write(&directory).unwrap();
        assert_eq!(leave(&config, 0, "site-a", Vector::new(), 9).unwrap().at_ms, 9);
    }

    #[test]
    fn too_little_room_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        std::fs::create_dir_all(config.meta_dir()).unwrap();
        assert_eq!(leave(&config, u64::MAX, "site-a", Vector::new(), 7).unwrap_err().0, "NO_ROOM");
        assert_eq!(Order::read(&config.paths.state.join("shipper")).unwrap(), None);
    }
}
