//! Between the decisions' types and their messages.

use cfs_config::Config;
use cfs_control_core::local::Directive;
use cfs_control_core::{Order, Report, Shipper, State, caps};
use cfs_model::op::StreamPosition;
use cfs_model::{Epoch, Incarnation, Level, Lsn, SiteId, Vector};
use cfs_rpc::v1;

/// The number of a site; `None` if it cannot be one.
pub(crate) fn site_id(number: u32) -> Option<SiteId> {
    Some(SiteId(u8::try_from(number).ok().filter(|number| *number != 0)?))
}

/// What a report holds as (durable, applied).
pub(crate) fn vectors(streams: &[v1::StreamState]) -> (Vector, Vector) {
    let positions = || streams.iter().take(Vector::MAX_STREAMS).filter_map(|s| Some((s.durable?, s.applied_lsn)));
    let durable = positions().filter_map(|(durable, _)| Some((durable.stream()?, durable.lsn())));
    let applied = positions().filter_map(|(durable, applied)| Some((durable.stream()?, Lsn(applied))));
    (durable.collect(), applied.collect())
}

/// A shipper's report, `age_ms` after it came.
pub(crate) fn shipper(report: &v1::ShipperReport, age_ms: u64) -> Shipper {
    let (durable, applied) = vectors(&report.streams);
    let peers = || report.peers.iter().take(caps::MAX_SITES).filter_map(|peer| Some((site_id(peer.site)?, peer)));
    Shipper {
        age_ms,
        instance: report.instance,
        append_path_age_ms: report.append_path_age_ms.saturating_add(age_ms),
        epoch: Epoch(report.epoch),
        floor: Epoch(report.floor),
        lease_deadline_ns: report.lease_deadline_boot_ns,
        accepting: report.accepting,
        incarnation: Incarnation(report.incarnation),
        needs_incarnation: report.needs_incarnation,
        durable,
        applied,
        drained_op: report.drained_op,
        confirmed_rule: report.confirmed_rule,
        wants_promise: u8::try_from(report.wants_promise).unwrap_or(u8::MAX),
        partial: report.partial,
        enrolling: if report.status == "ENROLLING" { report.why.clone() } else { String::new() },
        unshared_bytes: report.durable_bytes,
        read_only: report.status == "READ_ONLY",
        level: Level::told(report.level),
        sync_us: report.sync_us,
        unheard: peers().filter(|(_, peer)| peer.silent).map(|(site, _)| site).collect(),
        rtts_ms: peers()
            .filter(|(_, peer)| peer.rtt_us > 0)
            .map(|(site, peer)| (site, peer.rtt_us.div_ceil(1000)))
            .collect(),
        fenced: report.status == "FENCED",
    }
}

/// A site's report to the leader.
pub(crate) fn report(message: &v1::SiteReport) -> Option<Report> {
    Some(Report {
        site: site_id(message.site)?,
        node: message.envelope.as_ref()?.from_node,
        instance: message.instance,
        sequence: message.sequence,
        shipper: message.shipper.as_ref().map(|report| shipper(report, message.shipper_age_ms)),
        resigned: Epoch(message.resigned_epoch),
        level: Level::told(message.level),
    })
}

/// What the shipper is told; its number is the caller's.
pub(crate) fn directive(directive: &Directive, state: &State, config: &Config) -> v1::Directive {
    let primary = directive.primary.and_then(|id| state.site(id));
    // The address that this site's configuration has for it, if it has one: it may lead another way.
    let configured = primary.and_then(|site| config.peer(&site.name)).and_then(|peer| peer.producer.clone());
    let rule = |rule: &cfs_control_core::state::Rule| v1::AckRule {
        id: rule.id,
        copies: u32::from(rule.copies),
        members: rule.members.iter().map(|id| u32::from(id.0)).collect(),
    };
    let site = |site: &cfs_control_core::Site| v1::EnrolledSite {
        id: u32::from(site.id.0),
        name: site.name.to_string(),
        witness: site.witness,
        peer: site.peer.clone(),
        producer: site.producer.clone(),
    };
    v1::Directive {
        number: 0,
        epoch: directive.epoch.0,
        primary_site: primary.map(|site| site.name.to_string()).unwrap_or_default(),
        primary_address: configured.or_else(|| primary.map(|site| site.producer.clone())).unwrap_or_default(),
        primary: directive.appends,
        shared: directive.shared,
        lease_deadline_boot_ns: directive.lease_deadline_ns,
        drain_op: directive.drain_op,
        aborted_op: directive.aborted_op,
        floor: directive.floor.0,
        opened: opened(&directive.opened),
        incarnation: directive.incarnation.0,
        cut: directive.cut.to_wire(),
        fetch: directive.fetch.to_wire(),
        rules: directive.rules.iter().map(rule).collect(),
        promised_copies: u32::from(directive.promised),
        sites: state.sites.values().map(site).collect(),
        closed: directive.closed.to_wire(),
        held: directive.held.iter().map(|id| u32::from(id.0)).collect(),
        fenced: directive.fenced,
        fenced_why: directive.fenced_why.clone(),
        level: state.level.0,
        settings: state.settings.clone().into_iter().collect(),
    }
}

/// A history of opened epochs.
pub(crate) fn opened(history: &[(Epoch, SiteId)]) -> Vec<v1::Opened> {
    history.iter().map(|(epoch, site)| v1::Opened { epoch: epoch.0, site: u32::from(site.0) }).collect()
}

/// Reads a history; sites that cannot be are left out.
pub(crate) fn history(opened: &[v1::Opened]) -> Vec<(Epoch, SiteId)> {
    let owner = |number| if number == 0 { Some(SiteId::EVERY) } else { site_id(number) };
    opened.iter().filter_map(|opened| Some((Epoch(opened.epoch), owner(opened.site)?))).collect()
}

/// An order's kind and arguments as a message; the envelope is the caller's.
pub(crate) fn order(op: u64, order: &Order, timeout_ms: u64) -> v1::OrderRequest {
    use v1::order_request::Kind;
    let (kind, floor, cut): (Kind, u64, Vec<StreamPosition>) = match order {
        Order::Seal { floor } => (Kind::Seal, floor.0, Vec::new()),
        Order::Drain => (Kind::Drain, 0, Vec::new()),
        Order::CatchUp { floor, cut, .. } => (Kind::CatchUp, floor.0, cut.to_wire()),
    };
    let hook = matches!(order, Order::CatchUp { hook: true, .. });
    v1::OrderRequest { op, kind: kind.into(), floor, cut, timeout_ms, hook, ..v1::OrderRequest::default() }
}
