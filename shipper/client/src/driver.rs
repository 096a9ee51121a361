//! Keeps a session going for as long as the producer lives: reconnects, follows the primary, gives up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cfs_model::Epoch;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{Invalid, NotPrimary, Refusal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Fatal;
use crate::in_flight::MAX_KEPT_REFUSALS;
use crate::options::Options;
use crate::patience;
use crate::route::{self, Route};
use crate::scout::{FAILOVER, FAILOVER_PAUSE};
use crate::session::{End, Progress, Session};
use crate::shared::Shared;
use crate::sites::{Last, Nowhere, Place};

/// Longest pause that a shipper may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a site that takes appends it is said.
const LOOK_LIMIT: Duration = Duration::from_millis(500);
/// So many sessions with one site to no avail, and another one that accepts is tried.
const IN_VAIN: u32 = 3;
/// How often a session is looked at.
const STALL: Duration = Duration::from_millis(250);

pub(crate) struct Driver {
    shared: Arc<Shared>,
    route: Route,
    name: String,
    options: Options,
    progress: Progress,
    backoff: Duration,
    /// Since when no site took appends.
    down_since: Option<Instant>,
    /// The site of the last session, and the version of what it said then.
    last: Option<(usize, u64)>,
    /// Sessions that ended there since something was acknowledged.
    in_vain: u32,
}

/// What follows the end of a session.
enum Next {
    /// Connect again now.
    Again,
    /// Connect again after a pause, because of this.
    Pause(Option<Duration>, String),
    GiveUp(Fatal),
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        route: Route,
        name: String,
        options: Options,
        ready: oneshot::Sender<u64>,
    ) -> Self {
        let backoff = options.min_backoff;
        Self {
            shared,
            route,
            name,
            options,
            progress: Progress::new(ready),
            backoff,
            down_since: None,
            last: None,
            in_vain: 0,
        }
    }

    /// Runs until no further attempt would change anything, or nothing was acknowledged for too long.
    pub(crate) async fn run(self) {
        let shared = self.shared.clone();
        let patience = patience::run_out(shared.clone(), self.options.clone());
        // Whoever waits for the first session is woken when the driver goes, and looks for the reason then.
        let mut going = std::pin::pin!(self.keep_going());
        tokio::select! {
            () = &mut going => {}
            why = patience => shared.fail(why),
        }
    }

    async fn keep_going(mut self) {
        loop {
            let end = self.session().await;
            self.shared.in_session.store(false, Ordering::Relaxed);
            if let Route::Sites(sites) = &self.route {
                sites.set_missed(true);
            }
            if self.progress.take_advance() {
                self.backoff = self.options.min_backoff;
                self.down_since = None;
                self.in_vain = 0;
            }
            match self.decide(end) {
                Next::Again => {}
                Next::Pause(asked, why) => self.pause(asked, why).await,
                Next::GiveUp(fatal) => return self.shared.fail(fatal),
            }
        }
    }

    /// Where to go on, as far as that can be chosen.
    const fn was_at(&self) -> Last {
        match self.last {
            None => Last::Nowhere,
            Some((index, _)) if self.in_vain >= IN_VAIN => Last::Avoid(index),
            Some((index, _)) => Last::Keep(index),
        }
    }

    /// One session, from looking for its place to its end.
    async fn session(&mut self) -> End {
        let was_at = self.was_at();
        let (shared, options, name) = (&*self.shared, &self.options, &*self.name);
        let progress = &mut self.progress;
        let sites = match &mut self.route {
            Route::Local(path) => {
                let channel = match route::connect(path).await {
                    Ok(channel) => channel,
                    Err(why) => return End::Broken(why),
                };
                return Session::new(shared, options, name, true, progress).run(channel).await;
            }
            Route::Sites(sites) => sites,
        };
        // Before patience runs out, so that it can say what the sites said.
        let limit = options.give_up_after.map_or(LOOK_LIMIT, |limit| LOOK_LIMIT.min(limit / 2));
        let place = match sites.accepting(limit, was_at).await {
            Ok(place) => place,
            Err(Nowhere::Yet(why)) => return End::Broken(why),
            Err(Nowhere::Rejected(why)) => return End::Rejected(why),
        };
        let same = self.last.is_some_and(|(index, _)| index == place.index);
        self.in_vain = if same { self.in_vain + 1 } else { 0 };
        self.last = Some((place.index, place.version));
        let Place { index, epoch, connection, .. } = place;
        let session = Session::new(shared, options, name, false, progress).run(connection.channel);
        let mut session = std::pin::pin!(session);
        let mut stall = Stall::default();
        loop {
            tokio::select! {
                end = &mut session => return end,
                why = sites.better(index, epoch, connection.number) => return End::Left(why),
                () = tokio::time::sleep(STALL) => {
                    let (acknowledged, outstanding) = {
                        let in_flight = shared.lock();
                        (in_flight.acknowledged(), in_flight.has_sent())
                    };
                    let moves = stall.moves(acknowledged, outstanding);
                    sites.set_missed(!(moves && shared.in_session.load(Ordering::Relaxed)));
                }
            }
        }
    }

    /// Who the last session was with, for messages.
    fn describe(&self) -> String {
        match &self.route {
            Route::Local(path) => path.display().to_string(),
            Route::Sites(sites) => self.last.map_or_else(|| "every site".to_owned(), |(index, _)| sites.name(index)),
        }
    }

    fn decide(&mut self, end: End) -> Next {
        match end {
            End::Broken(why) => Next::Pause(None, why),
            End::Left(why) => {
                tracing::info!(producer = self.name, %why, "goes on elsewhere");
                Next::Again
            }
            End::Rejected(why) => {
                Next::GiveUp(Fatal::Rejected { target: self.describe(), producer: self.name.clone(), why })
            }
            End::Fatal(fatal) => Next::GiveUp(fatal),
            // Asked again, the shipper says under its present lease what it holds.
            End::Late => Next::Pause(None, "an acknowledgement arrived after its lease had ended".to_owned()),
            End::NotPrimary(why) => self.not_primary(why),
            End::Refused(Refusal { reason: None, .. }) => Next::Pause(None, "refused without a reason".to_owned()),
            End::Refused(Refusal { reason: Some(reason), first_seq }) => {
                if first_seq > 0 {
                    self.shared.lock().not_taken(first_seq);
                }
                self.refused(reason)
            }
        }
    }

    fn refused(&mut self, reason: Reason) -> Next {
        match reason {
            Reason::Fenced(fenced) => match self.options.epoch {
                Some(pinned) => Next::GiveUp(Fatal::Fenced { pinned, current: Epoch(fenced.current_epoch) }),
                None => Next::Pause(None, format!("epoch {} began", Epoch(fenced.current_epoch))),
            },
            Reason::NotPrimary(not_primary) => self.not_primary(not_primary),
            Reason::Backpressure(full) => {
                Next::Pause(Some(Duration::from_millis(full.retry_after_ms).min(MAX_ASKED_PAUSE)), full.why)
            }
            Reason::Invalid(invalid) => self.invalid(invalid),
        }
    }

    fn not_primary(&mut self, refused: NotPrimary) -> Next {
        let NotPrimary { site: primary, address, epoch, why } = refused;
        if let Route::Sites(sites) = &mut self.route {
            sites.named(&primary, &address);
            let who = if primary.is_empty() { why } else { format!("{primary} is primary") };
            return Next::Pause(None, who);
        }
        let own = self.progress.site.clone();
        if primary.is_empty() || primary == own {
            return Next::Pause(None, why);
        }
        let site = if own.is_empty() { self.describe() } else { own };
        Next::GiveUp(Fatal::NotPrimary { site, primary, address, epoch: Epoch(epoch) })
    }

    fn invalid(&mut self, invalid: Invalid) -> Next {
        let (settled, unheeded) = {
            let mut in_flight = self.shared.lock();
            (in_flight.refuse(invalid.seq, invalid.why.clone()), in_flight.unheeded())
        };
        match settled {
            Some(settled) => {
                self.shared.settled(settled);
                if unheeded > MAX_KEPT_REFUSALS {
                    return Next::GiveUp(Fatal::Unheeded(unheeded));
                }
                Next::Again
            }
            None => {
                Next::GiveUp(Fatal::Rejected { target: self.describe(), producer: self.name.clone(), why: invalid.why })
            }
        }
    }

    async fn pause(&mut self, asked: Option<Duration>, why: String) {
        let now = Instant::now();
        let since = *self.down_since.get_or_insert_with(|| {
            tracing::warn!(producer = self.name, %why, "appending is interrupted, trying again");
            now
        });
        self.shared.interrupted(why);
        let pause = match asked {
            Some(asked) => asked,
            None => {
                let longest = self.options.max_backoff;
                let longest = if now.duration_since(since) < FAILOVER { longest.min(FAILOVER_PAUSE) } else { longest };
                let pause = self.backoff.min(longest);
                self.backoff = (self.backoff * 2).min(longest);
                pause
            }
        };
        let was_at = self.was_at();
        match &mut self.route {
            Route::Local(_) => tokio::time::sleep(pause).await,
            // Waiting ends when there is somewhere else to go.
            Route::Sites(sites) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = sites.other(self.last, was_at) => {}
            },
        }
    }
}

/// Whether acknowledgements come.
#[derive(Default)]
struct Stall {
    acknowledged: u64,
    still: u32,
}

impl Stall {
    /// Called every [`STALL`]; `false` once nothing was acknowledged for two of them although entries wait for it.
    fn moves(&mut self, acknowledged: u64, outstanding: bool) -> bool {
        self.still = if outstanding && acknowledged == self.acknowledged { self.still + 1 } else { 0 };
        self.acknowledged = acknowledged;
        self.still < 2
    }
}
