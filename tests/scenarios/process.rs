//! `cfs` as an operator runs it: to its end, or beside the scenario.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The answer of a command that must succeed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self.out
    }

    /// What a command that must fail had to say.
    pub(crate) fn failed(self) -> String {
        assert_ne!(self.code, 0, "it should have failed; stdout:\n{}\nstderr:\n{}", self.out, self.err);
        format!("{}{}", self.out, self.err)
    }

    pub(crate) fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} in {out}"))
    }

    pub(crate) fn json_lines(self) -> Vec<Value> {
        let out = self.ok();
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
    }
}

/// `cfs` without what the developer's own shell says about its configuration.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cfs"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CFS_")) {
        command.env_remove(name);
    }
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs `cfs` to its end.
pub(crate) fn cfs<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Said {
    Running::spawn(command(args)).finish()
}

/// A process of ours that ends with the scenario.
pub(crate) struct Running {
    child: Child,
    /// What it prints, read as it comes: a full pipe would stop it.
    printed: Option<[JoinHandle<Vec<u8>>; 2]>,
}

impl Running {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cfs starts");
        let out = read_all(child.stdout.take().expect("a pipe"));
        let err = read_all(child.stderr.take().expect("a pipe"));
        Self { child, printed: Some([out, err]) }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("it is our child");
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Said {
        let status = self.child.wait().expect("it is our child");
        let [out, err] =
            self.printed.take().expect("it was not finished before").map(|reader| reader.join().expect("it reads"));
        Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(out).expect("UTF-8"),
            err: String::from_utf8_lossy(&err).into_owned(),
        }
    }

    /// Asks it to come to an end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Writes to its standard input; a process that is gone reads nothing.
    pub(crate) fn write(&mut self, text: &str) {
        let _ = self.child.stdin.as_mut().expect("a pipe").write_all(text.as_bytes());
    }

    /// Ends its standard input.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("it reads");
        bytes
    })
}
