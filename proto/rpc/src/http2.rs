//! HTTP/2 settings for long links: 1 Gbit/s over a round trip of 100 ms needs 12.5 MB in flight.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

/// Bytes that may be in flight on one stream, and on one connection.
pub const WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Largest frame that we take; larger frames cost fewer system calls.
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;
/// Largest set of headers that we take.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Calls at the same time on one connection.
pub const MAX_CONCURRENT_CALLS: u32 = 256;
/// A ping goes out after so long without traffic.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection ends when a ping stays unanswered for so long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings for a server.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Settings for a client.
pub fn client(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
