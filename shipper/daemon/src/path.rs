//! An entry's way through the shipper, in the order of the journey: append → commit → ship → receive → apply → ack.

pub(crate) mod append;
pub(crate) mod apply;
pub(crate) mod commit;
pub(crate) mod follow;
pub(crate) mod frames;
pub(crate) mod open;
pub(crate) mod receive;
pub(crate) mod refusal;
pub(crate) mod replicate;
pub(crate) mod service;
pub(crate) mod ship;
