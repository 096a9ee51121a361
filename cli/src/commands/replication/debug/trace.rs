//! `cfs admin replication debug --trace`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cfs_config::Config;
use cfs_rpc::unix;
use cfs_rpc::v1::debug_client::DebugClient;
use cfs_rpc::v1::{TraceLine, TraceRequest};
use cfs_service::trace::FRIENDLY;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::merge::{Line, Merge};
use crate::commands::replication::gather::{CONTROL_UNIT, SHIPPER_UNIT};
use crate::commands::replication::refusal::Refusal;
use crate::output::Rows;
use crate::{Context, duration};

/// Bytes of lines on their way to this program, beyond which the daemon drops lines and counts them.
const WINDOW_BYTES: u32 = 256 * 1024;
/// Lines that were received and not looked at.
const QUEUE: usize = 1024;
/// A daemon takes a request within this, or counts as silent.
const OPEN_LIMIT: Duration = Duration::from_secs(3);
/// A daemon that went away is looked for so often.
const PAUSE: Duration = Duration::from_millis(300);
/// Lines that have waited are printed so often.
const TICK: Duration = Duration::from_millis(50);

/// Arguments of `cfs admin replication debug --trace`.
#[derive(Debug, clap::Args)]
pub(super) struct Trace {
    /// Show what both processes of this site do, as they do it
    #[arg(long, required = true)]
    trace: bool,
    /// Only these modules: raft, lease, failover, append, commit, ship, apply, store, journal, enroll, audit, config, tls, or one
    /// of the code as in cfs_shipper::path; may be repeated
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    module: Vec<String>,
    /// The least level: error, warn, info, debug, or trace, which shows every acknowledgement too
    #[arg(long, value_name = "LEVEL", default_value = cfs_service::debug::DEFAULT_LEVEL)]
    level: String,
    /// End after this time (500ms, 30s, 5m), at most an hour; Ctrl-C ends it earlier
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    duration: Duration,
}

/// One of the two processes of a site.
#[derive(Debug, Clone)]
struct Process {
    name: &'static str,
    unit: &'static str,
    socket: PathBuf,
}

/// Why a process is not traced.
#[derive(Debug)]
enum Trouble {
    /// It may be there later.
    Away(String),
    /// It will not be traced, however often it is asked.
    Never(String),
    /// The command makes no sense, or this user may not give it.
    Refused(Refusal),
}

/// What the tasks that read tell.
#[derive(Debug)]
enum Told {
    Line(Line),
    Note(String),
}

/// Runs the command.
///
/// # Errors
/// When neither process can be traced, or the caller may not.
pub(super) async fn run(context: &Context, args: Trace) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let request = TraceRequest { modules: args.module, level: args.level };
    let processes = processes(&config);
    let opened = futures::future::join_all(processes.iter().map(|process| process.open(&request))).await;
    let mut sources = Vec::new();
    let mut troubles = Vec::new();
    for (process, opened) in processes.into_iter().zip(opened) {
        match opened {
            Ok(lines) => sources.push((process, Some(lines))),
            Err(Trouble::Refused(refusal)) => return Err(refusal.into()),
            Err(Trouble::Away(why)) => {
                troubles.push(format!("{} is not traced until it runs: {why}", process.unit));
                sources.push((process, None));
            }
            Err(Trouble::Never(why)) => troubles.push(format!("{} is not traced: {why}", process.unit)),
        }
    }
    if sources.iter().all(|(_, lines)| lines.is_none()) {
        // Those that run and will not be traced are not brought to it by a start.
        let next = match sources.is_empty() {
            true => "end a trace that runs, or wait, and repeat the command",
            false => {
                "start them with `systemctl start claudefs-repl`, or `cfs dev start` in a cluster made by `cfs dev up`"
            }
        };
        anyhow::bail!(
            "no process of {} can be traced\n  {}\n  next: {next}; `--config` chooses the site, here {}",
            config.site.name,
            troubles.join("\n  "),
            context.config_path().display()
        );
    }
    for trouble in troubles {
        anstream::eprintln!("note: {trouble}");
    }
    let (out, told) = mpsc::channel(QUEUE);
    for (process, lines) in sources {
        tokio::spawn(follow(process, lines, request.clone(), out.clone()));
    }
    drop(out);
    print_all(context, told, args.duration).await?;
    Ok(ExitCode::SUCCESS)
}

fn processes(config: &Config) -> Vec<Process> {
    let control = Process { name: "control", unit: CONTROL_UNIT, socket: config.control_socket() };
    let shipper = Process { name: "shipper", unit: SHIPPER_UNIT, socket: config.shipper_socket() };
    if config.site.witness { vec![control] } else { vec![control, shipper] }
}

impl Process {
    async fn open(&self, request: &TraceRequest) -> Result<Streaming<TraceLine>, Trouble> {
        let asking = async {
            let channel = unix::connect_narrow(&self.socket, WINDOW_BYTES).await.map_err(|error| match error {
                unix::Error::Forbidden(_) => Trouble::Refused(may_not()),
                error => Trouble::Away(error.to_string()),
            })?;
            let lines = DebugClient::new(channel).trace(request.clone()).await;
            lines.map(tonic::Response::into_inner).map_err(|status| of_status(&status))
        };
        let slow = || Trouble::Away(format!("it did not answer within {} s", OPEN_LIMIT.as_secs()));
        tokio::time::timeout(OPEN_LIMIT, asking).await.unwrap_or_else(|_| Err(slow()))
    }
}

fn of_status(status: &tonic::Status) -> Trouble {
    let why = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => {
            let names: Vec<&str> = FRIENDLY.iter().map(|(name, _)| *name).collect();
            let next = format!("cfs admin replication debug --trace --module {}", names.join(" | "));
            Trouble::Refused(Refusal { usage: true, ..Refusal::new("CFS-E105", "nothing is traced", why, next) })
        }
        Code::PermissionDenied => Trouble::Refused(may_not()),
        Code::Unimplemented => Trouble::Never("it is of an older version, which cannot: upgrade it".into()),
        Code::ResourceExhausted => Trouble::Never(why),
        _ => Trouble::Away(why),
    }
}

fn may_not() -> Refusal {
    let why = "only root or the service's own user may trace: lines name producers, paths and addresses";
    Refusal::new("CFS-E101", "nothing is traced", why, "sudo cfs admin replication debug --trace")
}

/// Reads one process's lines for as long as somebody wants them, through its restarts.
async fn follow(
    process: Process,
    mut lines: Option<Streaming<TraceLine>>,
    request: TraceRequest,
    out: mpsc::Sender<Told>,
) {
    let mut last_ns = 0;
    loop {
        if let Some(stream) = &mut lines {
            let ended = loop {
                match stream.message().await {
                    Ok(Some(line)) => {
                        last_ns = if line.lost > 0 { last_ns } else { line.at_ns };
                        let TraceLine { level, target, text, lost, .. } = line;
                        let line = Line { at_ns: last_ns, process: process.name, level, target, text, lost };
                        if out.send(Told::Line(line)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "it ended the trace".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            };
            let note = format!("{} went away ({ended}); it is traced again as soon as it is back", process.unit);
            if out.send(Told::Note(note)).await.is_err() {
                return;
            }
        }
        lines = match look_for(&process, &request, &out).await {
            Some(lines) => Some(lines),
            None => return,
        };
    }
}

/// Waits until the process is there; `None` once nobody waits, or it cannot be traced.
async fn look_for(process: &Process, request: &TraceRequest, out: &mpsc::Sender<Told>) -> Option<Streaming<TraceLine>> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = out.closed() => return None,
        }
        let note = match process.open(request).await {
            Ok(lines) => {
                out.send(Told::Note(format!("{} is there, and traced", process.unit))).await.ok()?;
                return Some(lines);
            }
            Err(Trouble::Away(_)) => continue,
            Err(Trouble::Never(why)) => format!("{} is not traced: {why}", process.unit),
            Err(Trouble::Refused(refusal)) => format!("{} is not traced: {refusal}", process.unit),
        };
        let _ = out.send(Told::Note(note)).await;
        return None;
    }
}

async fn print_all(context: &Context, mut told: mpsc::Receiver<Told>, limit: Duration) -> anyhow::Result<()> {
    let (mut rows, mut merge) = (Rows::to_stdout(context.format()), Merge::default());
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = tokio::time::sleep(limit);
    tokio::pin!(end);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            biased;
            () = &mut end => break,
            _ = &mut interrupted => break,
            _ = ticks.tick() => {
                while let Some(line) = merge.ready(began.elapsed()) {
                    rows.push(&line)?;
                }
                rows.flush()?;
            }
            one = told.recv() => match one {
                Some(Told::Line(line)) => {
                    if let Some(line) = merge.push(line, began.elapsed()) {
                        rows.push(&line)?;
                    }
                }
                Some(Told::Note(note)) => anstream::eprintln!("note: {note}"),
                // No process can be traced any more.
                None => break,
            },
        }
    }
    while let Some(line) = merge.rest() {
        rows.push(&line)?;
    }
    Ok(rows.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_traced_says_why_and_what_to_do() {
        let trouble = |code, text: &str| of_status(&tonic::Status::new(code, text));
        assert!(matches!(trouble(Code::Unimplemented, ""), Trouble::Never(why) if why.contains("upgrade")));
        assert!(matches!(trouble(Code::ResourceExhausted, "4 run"), Trouble::Never(why) if why == "4 run"));
        assert!(matches!(trouble(Code::Unavailable, "gone"), Trouble::Away(why) if why == "gone"));
        let refused = |code| match trouble(code, "no such module") {
            Trouble::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        assert!(refused(Code::PermissionDenied).next.contains("sudo"));
        let refusal = refused(Code::InvalidArgument);
        assert!(refusal.usage && refusal.next.contains("raft | lease"), "{refusal:?}");
    }

    /// The help names them too.
    #[test]
    fn the_friendly_names_are_those_in_the_help() {
        use clap::CommandFactory;
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Trace,
        }
        let command = Alone::command();
        let module = command.get_arguments().find(|arg| arg.get_id() == "module").expect("the flag");
        let help = module.get_help().expect("a help").to_string();
        let names: Vec<&str> = FRIENDLY.iter().map(|(name, _)| *name).collect();
        assert!(help.replace('\n', " ").contains(&names.join(", ")), "{help}");
    }
}
