//! Signals that a daemon obeys.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What is asked of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in good order.
    Terminate,
    /// SIGINT: end at once. What was promised is kept, nothing more is waited for.
    Interrupt,
    /// SIGHUP: read again what can be read again.
    Reload,
}

impl Signal {
    /// Its usual name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Reload => "SIGHUP",
        }
    }
}

/// From its making on, these signals do nothing by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    reload: unix::Signal,
}

impl Signals {
    /// Takes the signals over. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            reload: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next one. May be dropped half-way without losing any.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.reload.recv() => Signal::Reload,
        }
    }
}
