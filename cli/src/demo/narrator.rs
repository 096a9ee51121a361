//! Tells on standard error what happens.

use std::io::IsTerminal;
use std::time::Duration;

/// Long enough to read a line.
const PAUSE: Duration = Duration::from_secs(4);

/// Tells what comes next. Only who sits at a terminal is told why, and given time to read it.
#[derive(Debug, Clone, Copy)]
pub struct Narrator {
    explains: bool,
}

impl Narrator {
    /// With `fast` it explains nothing.
    pub fn new(fast: bool) -> Self {
        Self { explains: !fast && std::io::stderr().is_terminal() }
    }

    /// An act begins.
    pub async fn act(self, title: &str, why: &str) {
        anstream::eprintln!("* {title}");
        if self.explains {
            anstream::eprintln!("  ({why})");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Something happened in it.
    pub fn tell(self, what: &str) {
        anstream::eprintln!("  {what}");
    }
}
