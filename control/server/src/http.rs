//! Metrics and probes over HTTP: what load balancers and orchestrators ask.
//!
//! Every probe answers GET, HEAD and OPTIONS alike: 200 is yes, 503 is no, and the body of GET says why.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use serde::Deserialize;

use crate::control::{Control, blocking};
use crate::{metrics, status};

/// OpenMetrics 1.0, which is what lets counters keep their names.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves for as long as the process lives.
pub(crate) async fn serve(control: Arc<Control>, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", axum::routing::get(metrics_text))
        .route("/liveness", probe_route(liveness))
        .route("/readiness", probe_route(readiness))
        .route("/primary", probe_route(primary))
        .route("/replica", on(probes(), replica))
        .with_state(control);
    axum::serve(listener, routes).await
}

const fn probes() -> MethodFilter {
    MethodFilter::GET.or(MethodFilter::HEAD).or(MethodFilter::OPTIONS)
}

type Answer = Result<String, String>;

fn probe_route(ask: fn(&Control) -> Answer) -> MethodRouter<Arc<Control>> {
    on(probes(), async move |method: Method, State(control): State<Arc<Control>>| respond(&method, ask(&control)))
}

fn respond(method: &Method, answer: Answer) -> Response {
    let (code, text) = match answer {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    };
    let allow = [(header::ALLOW, "GET, HEAD, OPTIONS")];
    if *method == Method::GET {
        (code, allow, format!("{text}\n")).into_response()
    } else {
        (code, allow).into_response()
    }
}

fn liveness(_: &Control) -> Answer {
    Ok("alive".into())
}

fn readiness(control: &Control) -> Answer {
    let here = status::here(control);
    let text = if here.why.is_empty() { here.state.clone() } else { format!("{}: {}", here.state, here.why) };
    if here.state == "READY" { Ok(text) } else { Err(text) }
}

/// Whether this site takes appends now: the last epoch is its own, or every site's, its lease lasts, and its shipper accepts.
fn primary(control: &Control) -> Answer {
    let state = control.state();
    if !state.may_append(control.id()) {
        let who = state.primary.map_or_else(|| "nobody".to_owned(), |id| state.name_of(id));
        return Err(format!("{who} is primary"));
    }
    if !control.holds_lease() {
        return Err("this site was opened last and holds no lease".into());
    }
    let accepting = control.shipper.borrow().live().is_some_and(|report| report.accepting);
    let word = if state.is_shared() { "active" } else { "primary" };
    if accepting { Ok(format!("{word} in epoch {}", state.epoch)) } else { Err("the shipper takes no appends".into()) }
}

/// `?lag=` in ms, or with a unit: `500ms`, `2s`.
#[derive(Debug, Deserialize)]
struct Lag {
    lag: Option<String>,
}

fn lag_ms(text: &str) -> Option<u64> {
    if let Some(number) = text.strip_suffix("ms") {
        return number.parse().ok();
    }
    match text.strip_suffix('s') {
        Some(number) => number.parse::<u64>().ok()?.checked_mul(1000),
        None => text.parse().ok(),
    }
}

/// Whether this site is a replica that applies, no further behind than `lag`.
async fn replica(method: Method, State(control): State<Arc<Control>>, Query(query): Query<Lag>) -> Response {
    let limit = match query.lag.as_deref().map(lag_ms) {
        Some(None) => {
            let why = "lag: use a number of milliseconds, or one with a unit: 500ms, 2s\n";
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
        Some(limit) => limit,
        None => None,
    };
    respond(&method, is_replica(&control, limit))
}

fn is_replica(control: &Control, limit: Option<u64>) -> Answer {
    let here = status::here(control);
    if !["REPLICA", "ACTIVE"].contains(&here.role.as_str()) || here.state != "READY" {
        return Err(format!("{} {}", here.role, here.state));
    }
    match limit {
        Some(limit) if !here.lag_known || here.lag_ms > limit => {
            Err(format!("lag {} ms, more than {limit} ms", here.lag_ms))
        }
        _ => Ok(format!("replica, lag {} ms", here.lag_ms)),
    }
}

async fn metrics_text(State(control): State<Arc<Control>>) -> Response {
    match blocking(move || metrics::text(&control)).await {
        Ok(Ok(text)) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_has_a_unit_or_is_in_milliseconds() {
        assert_eq!(["500", "500ms", "2s"].map(lag_ms), [Some(500), Some(500), Some(2000)]);
        assert_eq!(["", "x", "1m", "-1", "99999999999999999999s"].map(lag_ms), [None; 5]);
    }
}
