//! What the control process decides: who is a member, which epoch is open, for whom, and until when.
//!
//! Pure: `(state, event, now) → actions`. The replicated [`State`] changes through [`State::apply`] alone, and time travels
//! in the command.

pub mod alone;
pub mod apply;
pub mod caps;
mod chores;
pub mod command;
pub mod coordinator;
mod drive;
mod feed;
pub mod force;
pub mod founding;
pub mod local;
pub mod mode;
pub mod plan;
pub mod removal;
pub mod report;
pub mod skew;
pub mod split;
pub mod state;
pub mod timers;
pub mod way_out;

pub use apply::Outcome;
pub use command::{Change, Command, Kind};
pub use coordinator::{Action, Coordinator, Lease};
pub use report::{Answer, Order, Report, Shipper};
pub use state::{Member, NodeId, Site, State};
