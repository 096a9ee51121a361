//! When to send a sign of life, when to suspect the leader, and when to stand for election.
//!
//! All times are milliseconds of one clock that never steps; randomness is an argument.

/// A leader sends a sign of life this often, between these bounds. The rounds that renew a lease count as such, and come more
/// often: a leader that renews one sends hardly any besides.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 250..=400;
/// A leader that is silent for so long is suspected, between these bounds.
const SILENCE_MS: std::ops::RangeInclusive<u64> = 500..=3000;
/// An election that has brought no leader after so long has failed, between these bounds.
const ELECTION_MS: std::ops::RangeInclusive<u64> = 300..=3000;
/// Two voters that lose their leader at the same moment stand at moments that are apart by up to this.
const SPREAD_MS: u64 = 20;
/// The longest pause before another attempt.
const MAX_BACKOFF_MS: u64 = 2000;
/// A round trip is not believed to be longer.
const MAX_ROUND_TRIP_MS: u64 = 2000;

/// How often a leader shows itself, by the longest round trip to a voter.
pub fn heartbeat_ms(round_trip_ms: u64) -> u64 {
    (round_trip_ms / 2).clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end())
}

/// How long a call may take that the other end answers at once.
pub fn call_ms(round_trip_ms: u64) -> u64 {
    (4 * round_trip_ms.min(MAX_ROUND_TRIP_MS) + 500).clamp(800, 2000)
}

/// How long one attempt to connect may take; every fourth attempt is patient, in case that the estimate is wrong.
pub fn connect_ms(round_trip_ms: Option<u64>, attempt: u32) -> u64 {
    match round_trip_ms {
        Some(round_trip_ms) if attempt % 4 != 3 => (4 * round_trip_ms + 250).clamp(300, 2000),
        _ => 2000,
    }
}

/// A smoothed value and how far it varies, as TCP keeps them for its round trips (RFC 6298).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Smoothed {
    /// In 1/8 ms; `None` before the first sample.
    mean: Option<u64>,
    /// In 1/8 ms.
    deviation: u64,
}

impl Smoothed {
    /// Takes a sample in.
    pub fn add(&mut self, sample_ms: u64) {
        let sample = sample_ms.saturating_mul(8);
        match self.mean {
            None => {
                self.mean = Some(sample);
                self.deviation = sample / 2;
            }
            Some(mean) => {
                self.deviation = (3 * self.deviation + mean.abs_diff(sample)) / 4;
                self.mean = Some((7 * mean + sample) / 8);
            }
        }
    }

    /// The smoothed value; `None` before the first sample.
    pub fn mean_ms(&self) -> Option<u64> {
        self.mean.map(|mean| mean.div_ceil(8))
    }

    /// A value that is rarely exceeded: mean plus four deviations; 0 before the first sample.
    pub fn most_ms(&self) -> u64 {
        self.mean.map_or(0, |mean| (mean + 4 * self.deviation).div_ceil(8))
    }
}

/// What a node is, for elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes and may stand.
    Voter,
    /// It does neither.
    Bystander,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something happens, or until this time.
    Wait(u64),
    /// Send a sign of life to everybody.
    Heartbeat,
    /// Ask every voter whether an election would succeed, and report with [`Elector::asked`].
    Ask,
    /// Stand for election.
    Stand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A leader is heard.
    Quiet,
    /// It is suspected; ask at this time.
    Suspicious { ask_at: u64 },
    /// Voters are being asked.
    Asking,
    /// A quorum would vote for us.
    Granted,
    /// We stand; failed at this time.
    Standing { until: u64 },
}

/// One node's part in elections: pure.
#[derive(Debug, Clone)]
pub struct Elector {
    role: Role,
    heard_at: u64,
    /// When there was a leader for certain; `None`: not since the start.
    led_at: Option<u64>,
    gaps: Smoothed,
    /// Whether the leader was heard before, so that the time since then says how regular it is.
    regular: bool,
    gone_at: Option<u64>,
    phase: Phase,
    attempts: u32,
    shown_at: u64,
}

impl Elector {
    /// A node that has just started, and gives a leader time to show itself.
    pub fn new(now: u64) -> Self {
        Self {
            role: Role::Bystander,
            heard_at: now,
            led_at: None,
            gaps: Smoothed::default(),
            regular: false,
            gone_at: None,
            phase: Phase::Quiet,
            attempts: 0,
            shown_at: 0,
        }
    }

    /// What the node is has changed.
    pub fn become_role(&mut self, role: Role, now: u64) {
        if self.role == role {
            return;
        }
        if self.role == Role::Leader {
            // Whoever took over deserves the time that a fresh leader gets.
            self.heard_at = now;
            self.regular = false;
        }
        self.role = role;
        self.phase = Phase::Quiet;
        self.attempts = 0;
        self.shown_at = 0;
    }

    /// A message of the current leader arrived.
    pub fn hear(&mut self, now: u64) {
        if self.regular {
            self.gaps.add(now.saturating_sub(self.heard_at).min(*SILENCE_MS.start()));
        }
        self.regular = true;
        self.heard_at = self.heard_at.max(now);
        self.led_at = Some(self.heard_at);
        self.gone_at = None;
        self.attempts = 0;
        self.phase = Phase::Quiet;
    }

    /// The leader's process is proven gone: the connection to it broke at `broke_at`, and nobody listens there any more.
    /// Without effect if it was heard since.
    pub fn lose(&mut self, broke_at: u64) {
        if broke_at >= self.heard_at {
            self.gone_at = Some(broke_at);
        }
    }

    /// The leader is there again, or another one is.
    pub fn find(&mut self) {
        self.gone_at = None;
    }

    /// Another voter was told that we would vote for it: it goes first.
    pub fn give_way(&mut self, now: u64, round_trip_ms: u64) {
        if matches!(self.phase, Phase::Quiet | Phase::Suspicious { .. }) && self.role == Role::Voter {
            self.phase = Phase::Suspicious { ask_at: now + election_ms(round_trip_ms) / 2 };
        }
    }

    /// How the question of [`Action::Ask`] ended.
    pub fn asked(&mut self, granted: bool, now: u64, round_trip_ms: u64, chance: u64) {
        if self.phase != Phase::Asking {
            return;
        }
        if granted {
            self.phase = Phase::Granted;
        } else {
            self.again(now, round_trip_ms, chance);
        }
    }

    /// When the leader was heard last.
    pub fn heard_at(&self) -> u64 {
        self.heard_at
    }

    /// When another node was last heard as the leader; `None`: never.
    pub fn led_at(&self) -> Option<u64> {
        self.led_at
    }

    /// Silence after which a leader is suspected: by the round trip, and by how it was heard so far.
    pub fn silence_ms(&self, round_trip_ms: u64) -> u64 {
        let expected = 4 * round_trip_ms + 2 * heartbeat_ms(round_trip_ms);
        expected.max(self.gaps.most_ms() + heartbeat_ms(round_trip_ms)).clamp(*SILENCE_MS.start(), *SILENCE_MS.end())
    }

    /// Whether this node believes that there is no leader.
    pub fn suspects(&self, now: u64, round_trip_ms: u64) -> bool {
        self.gone_at.is_some() || now >= self.heard_at + self.silence_ms(round_trip_ms)
    }

    /// What to do now. `shown_at` is when every voter was last sent a message of any kind, `chance` any random number.
    pub fn step(&mut self, now: u64, round_trip_ms: u64, shown_at: u64, chance: u64) -> Action {
        match self.role {
            Role::Bystander => Action::Wait(u64::MAX),
            Role::Leader => {
                // A confirmed leadership shows itself to the voters as well, but not to the rest.
                let interval = heartbeat_ms(round_trip_ms);
                let due = (self.shown_at.max(shown_at) + interval).min(self.shown_at + 4 * interval);
                if now >= due {
                    self.shown_at = now;
                    return Action::Heartbeat;
                }
                Action::Wait(due)
            }
            Role::Voter => self.step_voter(now, round_trip_ms, chance),
        }
    }

    fn step_voter(&mut self, now: u64, round_trip_ms: u64, chance: u64) -> Action {
        if !self.suspects(now, round_trip_ms) {
            if !matches!(self.phase, Phase::Standing { .. }) {
                self.phase = Phase::Quiet;
            }
            return Action::Wait(self.heard_at + self.silence_ms(round_trip_ms));
        }
        match self.phase {
            Phase::Quiet => {
                let ask_at = now + chance % (SPREAD_MS + round_trip_ms.min(MAX_ROUND_TRIP_MS));
                self.phase = Phase::Suspicious { ask_at };
                Action::Wait(ask_at)
            }
            Phase::Suspicious { ask_at } if now < ask_at => Action::Wait(ask_at),
            Phase::Suspicious { .. } => {
                self.phase = Phase::Asking;
                Action::Ask
            }
            Phase::Asking => Action::Wait(u64::MAX),
            Phase::Granted => {
                self.phase = Phase::Standing { until: now + election_ms(round_trip_ms) };
                Action::Stand
            }
            Phase::Standing { until } if now < until => Action::Wait(until),
            Phase::Standing { .. } => {
                self.again(now, round_trip_ms, chance);
                Action::Wait(now)
            }
        }
    }

    fn again(&mut self, now: u64, round_trip_ms: u64, chance: u64) {
        self.attempts = self.attempts.saturating_add(1);
        let most = ((SPREAD_MS + 2 * round_trip_ms.min(MAX_ROUND_TRIP_MS)) << self.attempts.min(6)).min(MAX_BACKOFF_MS);
        self.phase = Phase::Suspicious { ask_at: now + most / 4 + chance % most };
    }
}

fn election_ms(round_trip_ms: u64) -> u64 {
    (6 * round_trip_ms + 200).clamp(*ELECTION_MS.start(), *ELECTION_MS.end())
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
