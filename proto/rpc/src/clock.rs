//! Time and randomness as arguments, so that a simulation can supply its own.

use std::time::{Duration, SystemTime};

/// Reads the clocks of one machine.
pub trait Clock: Send + Sync + 'static {
    /// Time since boot, suspension included; never steps. Leases and deadlines are measured with it.
    fn boot(&self) -> Duration;
    /// The calendar. It may step in either direction: use it only for people and for stamps.
    fn wall(&self) -> SystemTime;
}

/// A source of random bytes.
pub trait Randomness: Send + Sync + 'static {
    /// Fills `bytes` with unpredictable bytes.
    ///
    /// # Errors
    /// When the source cannot deliver; nothing in `bytes` may be used then.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // The boot clock starts at 0, so neither part is ever negative.
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The operating system's generator, as seeded by the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandomness;

impl Randomness for OsRandomness {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(bytes)
            .map_err(|_| std::io::Error::other("the operating system gave no random bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_runs_forward() {
        let before = RealClock.boot();
        std::thread::sleep(Duration::from_millis(2));
        assert!(RealClock.boot() >= before + Duration::from_millis(2));
    }

    #[test]
    fn random_bytes_differ() -> std::io::Result<()> {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        OsRandomness.fill(&mut a)?;
        OsRandomness.fill(&mut b)?;
        assert_ne!(a, b);
        Ok(())
    }
}
