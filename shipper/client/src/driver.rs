//! Keeps a session going for as long as the producer lives: reconnects, follows the primary, gives up.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::Epoch;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{Invalid, NotPrimary, Refusal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Fatal;
use crate::in_flight::MAX_KEPT_REFUSALS;
use crate::options::Options;
use crate::route::Route;
use crate::session::{End, Progress, Session};
use crate::shared::Shared;

/// Longest pause that a shipper may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Driver {
    shared: Arc<Shared>,
    route: Route,
    name: String,
    options: Options,
    progress: Progress,
    backoff: Duration,
    /// Since when no site took appends.
    down_since: Option<Instant>,
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
        Self { shared, route, name, options, progress: Progress::new(ready), backoff, down_since: None }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let end = self.session().await;
            if self.progress.take_advance() {
                self.backoff = self.options.min_backoff;
                self.down_since = None;
            }
            match self.decide(end) {
                Next::Again => {}
                Next::Pause(asked, why) => {
                    if let Err(fatal) = self.pause(asked, why).await {
                        return self.shared.fail(fatal);
                    }
                }
                Next::GiveUp(fatal) => return self.shared.fail(fatal),
            }
        }
    }

    async fn session(&mut self) -> End {
        let channel = match self.route.connect().await {
            Ok(channel) => channel,
            Err(why) => return End::Broken(why),
        };
        let local = self.route.is_local();
        Session::new(&self.shared, &self.options, &self.name, local, &mut self.progress).run(channel).await
    }

    fn decide(&mut self, end: End) -> Next {
        match end {
            End::Broken(why) => {
                self.route.turn();
                Next::Pause(None, why)
            }
            End::Rejected(why) => {
                Next::GiveUp(Fatal::Rejected { target: self.route.describe(), producer: self.name.clone(), why })
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
        let own = self.progress.site.clone();
        if refused.site.is_empty() || refused.site == own {
            self.route.turn();
            return Next::Pause(None, format!("no site takes appends: {}", refused.why));
        }
        if self.route.follow(&refused.site, &refused.address) {
            return Next::Pause(Some(self.options.min_backoff), format!("{} is primary", refused.site));
        }
        Next::GiveUp(Fatal::NotPrimary {
            site: if own.is_empty() { self.route.describe() } else { own },
            primary: refused.site,
            address: refused.address,
            epoch: Epoch(refused.epoch),
        })
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
            None => Next::GiveUp(Fatal::Rejected {
                target: self.route.describe(),
                producer: self.name.clone(),
                why: invalid.why,
            }),
        }
    }

    async fn pause(&mut self, asked: Option<Duration>, why: String) -> Result<(), Fatal> {
        let now = Instant::now();
        let since = *self.down_since.get_or_insert_with(|| {
            tracing::warn!(producer = self.name, %why, "appending is interrupted, trying again");
            now
        });
        if let Some(limit) = self.options.give_up_after
            && now.duration_since(since) >= limit
        {
            return Err(Fatal::GaveUp { after: limit, why });
        }
        let pause = match asked {
            Some(asked) => asked,
            None => {
                let pause = self.backoff;
                self.backoff = (self.backoff * 2).min(self.options.max_backoff);
                pause
            }
        };
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
