//! Metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics;
use crate::node::Node;

/// OpenMetrics 1.0, which is what lets counters keep their names.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics` and `/liveness` on `address` for as long as the process lives.
pub(crate) async fn serve(node: Arc<Node>, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    let routes =
        Router::new().route("/metrics", get(metrics_text)).route("/liveness", get(async || "ok\n")).with_state(node);
    axum::serve(listener, routes).await
}

async fn metrics_text(State(node): State<Arc<Node>>) -> impl IntoResponse {
    match tokio::task::spawn_blocking(move || metrics::text(&node)).await {
        Ok(Ok(text)) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n").into_response(),
    }
}
