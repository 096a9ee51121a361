//! Whoever orders something dangerous says so twice.

use std::io::{self, BufRead, IsTerminal, Write};

use super::refusal::Refusal;

/// How an operator is asked.
pub(super) trait Asked {
    /// Whether somebody can answer.
    fn can_answer(&self) -> bool;
    /// Shows `prompt` and takes one line.
    ///
    /// # Errors
    /// Those of the terminal.
    fn answer(&mut self, prompt: &str) -> io::Result<String>;
}

/// The terminal that this program runs on. Blocks.
#[derive(Debug)]
pub(super) struct Terminal;

impl Asked for Terminal {
    fn can_answer(&self) -> bool {
        io::stdin().is_terminal()
    }

    fn answer(&mut self, prompt: &str) -> io::Result<String> {
        let mut err = io::stderr().lock();
        write!(err, "{prompt}")?;
        err.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}

/// Returns when the operator means it: by `--yes`, or by typing `site`.
///
/// # Errors
/// [`Refusal`]: nobody can answer, or the answer was another one.
pub(super) fn confirm(yes: bool, site: &str, command: &str, asked: &mut dyn Asked) -> Result<(), Refusal> {
    if yes {
        return Ok(());
    }
    if !asked.can_answer() {
        let why = "it has to be confirmed, and there is no terminal to ask on: add --yes";
        return Err(Refusal::new("CFS-E110", "nothing was changed", why, format!("{command} --yes")));
    }
    let prompt = format!("Type the site's name, {site}, to go on: ");
    let answer = asked.answer(&prompt);
    if answer.as_ref().is_ok_and(|answer| answer.trim() == site) {
        return Ok(());
    }
    let why = match answer {
        Ok(answer) => format!("{:?} is not {site:?}", answer.trim()),
        Err(error) => format!("no answer could be read: {error}"),
    };
    Err(Refusal::new("CFS-E111", "nothing was changed", why, format!("{command}, and type {site}")))
}

/// The same on the terminal, beside the runtime.
pub(super) async fn on_terminal(yes: bool, site: &str, command: String) -> anyhow::Result<()> {
    let site = site.to_owned();
    let asking = tokio::task::spawn_blocking(move || confirm(yes, &site, &command, &mut Terminal));
    tokio::select! {
        confirmed = asking => Ok(confirmed??),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            anstream::eprintln!();
            Err(Refusal::new("CFS-E111", "nothing was changed", "interrupted", "").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(Option<&'static str>, String);

    impl Asked for Script {
        fn can_answer(&self) -> bool {
            self.0.is_some()
        }
        fn answer(&mut self, prompt: &str) -> io::Result<String> {
            self.1.push_str(prompt);
            Ok(self.0.unwrap_or_default().to_owned())
        }
    }

    fn outcome(yes: bool, answer: Option<&'static str>) -> (Result<(), Refusal>, String) {
        let mut script = Script(answer, String::new());
        let outcome = confirm(yes, "site-b", "cfs admin replication failover --to site-b", &mut script);
        (outcome, script.1)
    }

    #[test]
    fn only_the_name_or_the_flag_confirms() {
        assert_eq!(outcome(true, None), (Ok(()), String::new()));
        assert_eq!(outcome(false, Some("site-b\n")).0, Ok(()));
        assert!(outcome(false, Some("site-b\n")).1.contains("site-b"));
        for answer in ["", "\n", "y\n", "yes\n", "site-a\n", "SITE-B\n"] {
            assert_eq!(&*outcome(false, Some(answer)).0.expect_err(answer).code, "CFS-E111");
        }
        let refusal = outcome(false, None).0.expect_err("nobody can answer");
        assert!(refusal.to_string().contains("--yes"), "{refusal}");
    }
}
