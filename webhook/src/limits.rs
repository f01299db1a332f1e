//! The limits of size, number and time that the server sets.

use std::time::Duration;

/// Limits of a [`Server`](crate::Server). Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body. An UPDATE carries the object twice, and etcd takes 1.5 MiB of it.
    pub body: usize,
    /// Bytes of all request bodies together, as they come. One peer has half of them at most, and of what is left another
    /// one half. A request that finds no room waits within `request_time`.
    /// Room for one body (`body`) of it is kept back, so that one of them always gets on.
    pub memory: usize,
    /// From the end of the handshake to the end of the first request's headers; then, in HTTP/1,
    /// from the first byte of each later request to the end of its headers.
    pub header_time: Duration,
    /// From accepting a connection to the end of its TLS handshake.
    pub handshake_time: Duration,
    /// From the end of a request's headers to its answer, including its body and the wait for a permit. A response that
    /// the client does not read is abandoned after the same time.
    pub request_time: Duration,
    /// How long an HTTP/1 connection may be idle after a request. Longer than the 90 s after which
    /// an API server closes it by itself, so that it never sends into a closing connection.
    pub idle_time: Duration,
    /// How often an HTTP/2 peer is pinged, and how long it may take to answer. HTTP/2 connections
    /// that answer stay open.
    pub ping_time: Duration,
    /// Connections at once. When there are more, one of the peer that has the most goes: the longest idle one.
    pub connections: usize,
    /// Requests at once, those included whose bodies are on their way. One peer has half of them at most, and of what is
    /// left another one half; more are refused.
    pub requests: usize,
    /// Reviews at once; more wait within `request_time`.
    pub concurrent: usize,
    /// From not ready to closing the listener: the time in which endpoints stop sending traffic here.
    pub drain: Duration,
    /// From closing the listener to cutting off the requests that are still in flight.
    pub drain_limit: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            memory: 24 << 20,
            header_time: Duration::from_secs(10),
            handshake_time: Duration::from_secs(10),
            request_time: Duration::from_secs(10),
            idle_time: Duration::from_mins(5),
            ping_time: Duration::from_secs(20),
            connections: 128,
            requests: 2048,
            concurrent: 128,
            drain: Duration::from_secs(5),
            drain_limit: Duration::from_secs(20),
        }
    }
}
