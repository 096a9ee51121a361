//! Facts about this machine that replication depends on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cfs_config::Config;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::archive::Content;

/// Other programs get so long, and may say so much.
const LIMIT: Duration = Duration::from_secs(3);
const MAX_OUTPUT: usize = 1024 * 1024;
/// Files that are listed of one directory tree.
const MAX_LISTED: usize = 5000;

/// Files of the kernel, and what they are called in the bundle.
const FACTS: [(&str, &[&str]); 3] = [
    ("system/uname.txt", &["/proc/sys/kernel/hostname", "/proc/version", "/etc/os-release"]),
    ("system/memory.txt", &["/proc/meminfo"]),
    (
        "system/load.txt",
        &["/proc/loadavg", "/proc/uptime", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"],
    ),
];
/// Programs, and what their output is called in the bundle.
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("system/clock-chrony.txt", "chronyc", &["-n", "tracking"]),
    ("system/clock-systemd.txt", "timedatectl", &["show"]),
    (
        "system/units.txt",
        "systemctl",
        &["status", "--no-pager", "--lines=0", "claudefs-control", "claudefs-shipper", "claudefs-repl"],
    ),
];

/// Takes all of it; returns what could not be had.
pub(super) async fn take(config: &Config, pids: &[(String, u32)], content: &mut Content) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    for (name, paths) in FACTS {
        let text = concatenated(paths);
        if text.is_empty() {
            missing.push((name.to_owned(), format!("{} cannot be read", paths.join(", "))));
        } else {
            content.add(name, &text);
        }
    }
    let sockets = sockets_of(config);
    let sockets = ("system/sockets.txt", "ss", &["-tan", sockets.as_str()][..]);
    let programs = PROGRAMS.into_iter().chain([sockets]);
    let outputs = programs.map(async |(name, program, args)| (name, output_of(program, args, LIMIT, MAX_OUTPUT).await));
    for (name, output) in futures::future::join_all(outputs).await {
        match output {
            Ok(text) => content.add(name, &text),
            Err(why) => missing.push((name.to_owned(), why)),
        }
    }
    let (owned, pids) = (config.clone(), pids.to_vec());
    let rest = tokio::task::spawn_blocking(move || {
        [
            ("system/disks.txt", disks(&owned)),
            ("system/files.txt", listing(&owned)),
            ("system/processes.txt", processes(&pids)),
        ]
    });
    match rest.await {
        Ok(rest) => {
            rest.into_iter().filter(|(_, text)| !text.is_empty()).for_each(|(name, text)| content.add(name, &text))
        }
        Err(error) => missing.push(("system".to_owned(), error.to_string())),
    }
    missing
}

/// What a program prints, no more than the last `most` bytes of it. `Err` says why there is nothing.
pub(super) async fn output_of(program: &str, args: &[&str], limit: Duration, most: usize) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    let mut out = child.stdout.take().ok_or_else(|| format!("{program} has no output"))?;
    let reading = async {
        let mut kept: Vec<u8> = Vec::new();
        let mut part = vec![0; 64 * 1024];
        loop {
            let length = out.read(&mut part).await.map_err(|error| format!("{program}: {error}"))?;
            if length == 0 {
                break;
            }
            kept.extend_from_slice(&part[..length]);
            if kept.len() > 2 * most {
                kept.drain(..kept.len() - most);
            }
        }
        kept.drain(..kept.len().saturating_sub(most));
        // How it ended says less than what it printed, if it did.
        match child.wait().await {
            Ok(status) if kept.is_empty() && !status.success() => Err(format!("{program} printed nothing ({status})")),
            _ => Ok(String::from_utf8_lossy(&kept).into_owned()),
        }
    };
    tokio::time::timeout(limit, reading)
        .await
        .unwrap_or_else(|_| Err(format!("{program} did not end within {} s", limit.as_secs())))
}

/// Which of the machine's connections are ours, as a filter of `ss`: by the ports of this site and of the others.
fn sockets_of(config: &Config) -> String {
    let listen = &config.listen;
    let own = [Some(&listen.peer), Some(&listen.control), listen.http.as_ref(), listen.shipper_http.as_ref()];
    let own = own.into_iter().chain([listen.producer.as_ref()]).flatten();
    let others = config.peers.iter().flat_map(|peer| [&peer.peer, &peer.control]);
    let ports: BTreeSet<u16> =
        own.chain(others).filter_map(|address| address.rsplit_once(':')?.1.parse().ok()).collect();
    let of_port = |port: &u16| format!("sport = :{port} or dport = :{port}");
    ports.iter().map(of_port).collect::<Vec<_>>().join(" or ")
}

/// Files one after another, each under its name; those that cannot be read are left out.
fn concatenated(paths: &[&str]) -> String {
    let read = |path: &&str| Some(format!("==> {path}\n{}\n", std::fs::read_to_string(path).ok()?.trim_end()));
    paths.iter().filter_map(read).collect()
}

fn directories(config: &Config) -> [(&'static str, &Path); 8] {
    let paths = &config.paths;
    [
        ("state", &paths.state),
        ("journal", &paths.journal),
        ("meta", &paths.meta),
        ("audit", &paths.audit),
        ("control", &paths.control),
        ("tls", &paths.tls),
        ("run", &paths.run),
        ("configuration", config.file.parent().unwrap_or(Path::new("/"))),
    ]
}

/// How full the disks below the directories are. Blocks.
fn disks(config: &Config) -> String {
    let mut out = String::new();
    for (name, path) in directories(config) {
        let line = match rustix::fs::statvfs(path) {
            Ok(space) => format!(
                "bytes {} free {} for us {}; inodes {} free {}",
                space.f_blocks.saturating_mul(space.f_frsize),
                space.f_bfree.saturating_mul(space.f_frsize),
                space.f_bavail.saturating_mul(space.f_frsize),
                space.f_files,
                space.f_ffree
            ),
            Err(error) => error.to_string(),
        };
        let _ = writeln!(out, "{name} {}: {line}", path.display());
    }
    out
}

/// Names, sizes, modes, owners and ages of the files there, and nothing of what is in them. Blocks.
fn listing(config: &Config) -> String {
    let mut out = String::new();
    let state = &config.paths.state;
    // Those inside of another one are listed with it.
    let roots = directories(config).into_iter().filter(|(name, path)| *name == "state" || !path.starts_with(state));
    for (name, root) in roots {
        let _ = writeln!(out, "==> {name} {}", root.display());
        let deep = if name == "configuration" { 2 } else { 6 };
        let walk = walkdir::WalkDir::new(root).max_depth(deep).sort_by_file_name();
        for (index, entry) in walk.into_iter().enumerate() {
            if index >= MAX_LISTED {
                let _ = writeln!(out, "and more");
                break;
            }
            let line = match entry.map(|entry| (entry.metadata(), entry)) {
                Ok((Ok(meta), entry)) => format!(
                    "{:06o} {}:{} {:>12} {} {}",
                    meta.mode(),
                    meta.uid(),
                    meta.gid(),
                    meta.len(),
                    meta.mtime(),
                    entry.path().display()
                ),
                Ok((Err(error), _)) | Err(error) => error.to_string(),
            };
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Limits and resources of the daemons. Blocks.
fn processes(pids: &[(String, u32)]) -> String {
    let mut out = String::new();
    for (name, pid) in pids {
        let dir = format!("/proc/{pid}");
        let files = ["status", "limits", "io", "oom_score"].map(|file| format!("{dir}/{file}"));
        let open = std::fs::read_dir(format!("{dir}/fd"))
            .map_or_else(|error| error.to_string(), |fds| fds.count().to_string());
        let _ = writeln!(out, "==> {name}, process {pid}, open files: {open}");
        out.push_str(&concatenated(&files.each_ref().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_output_of_a_program_is_bounded_in_time_and_length() {
        let ran = output_of("sh", &["-c", "yes x | head -c 100000; echo end"], LIMIT, 1000).await.expect("it runs");
        assert!(ran.len() == 1000 && ran.ends_with("x\nend\n"), "{}", ran.len());
        let slow = output_of("sleep", &["60"], Duration::from_millis(20), 10).await;
        assert!(slow.is_err_and(|why| why.contains("did not end")));
        let absent = output_of("no-such-program-here", &[], LIMIT, 10).await;
        assert_eq!(absent, Err("no-such-program-here is not installed".to_owned()));
        let failed = output_of("sh", &["-c", "exit 3"], LIMIT, 10).await;
        assert!(failed.is_err_and(|why| why.contains("sh printed nothing") && why.contains('3')));
    }

    #[test]
    fn files_are_listed_without_what_is_in_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("repl.toml");
        let state = dir.path().join("state");
        std::fs::create_dir_all(state.join("tls")).expect("made");
        std::fs::write(state.join("tls/control.key"), "SECRET").expect("written");
        let text = format!(
            "[site]\nname = \"site-a\"\nid = 1\n[cluster]\nid = \"00010203-0405-0607-0809-0a0b0c0d0eff\"\n[paths]\nstate = {state:?}\n"
        );
        std::fs::write(&file, text).expect("written");
        let config = Config::load_with(Some(&file), &[], []).expect("it reads");
        let listed = listing(&config);
        assert!(listed.contains("state/tls/control.key") && !listed.contains("SECRET"), "{listed}");
        assert_eq!(listed.matches("state/tls/control.key").count(), 1, "{listed}");
        assert!(disks(&config).lines().count() == 8 && disks(&config).contains("inodes"));
        let own = processes(&[("me".into(), std::process::id())]);
        assert!(own.contains("Max open files") && own.contains("VmRSS"), "{own}");
        assert!(sockets_of(&config).starts_with("sport = :9500 or dport = :9500 or sport = :9501"));
    }
}
