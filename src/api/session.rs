//! The config keys that the operator itself reads: sessions and CORS.

use std::time::Duration;

use super::{MCPServerSpec, Transport, go_duration};

/// Config key of streamable-http: how long a session may be idle (a Go duration).
pub const SESSION_TIMEOUT: &str = "SESSION_TIMEOUT";
/// Config key of http: origins that may call, separated by commas.
pub const CORS_ORIGINS: &str = "CORS_ORIGINS";
/// Session timeout of a server that sets none.
pub const DEFAULT_SESSION_TIMEOUT: &str = "30m";

/// The session timeout as the user wrote it, or the default. Only streamable-http has sessions.
pub fn timeout_text(spec: &MCPServerSpec) -> &str {
    match spec.config.get(SESSION_TIMEOUT) {
        Some(text) if spec.transport == Transport::StreamableHttp => text,
        _ => DEFAULT_SESSION_TIMEOUT,
    }
}

/// Parses a session timeout: a Go duration above zero.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let nanos = go_duration::parse(text).filter(|nanos| *nanos > 0)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Seconds of the Service's session affinity: the session timeout, rounded up and clamped to what Kubernetes accepts
/// (1 s to 1 day).
pub fn affinity_seconds(spec: &MCPServerSpec) -> i32 {
    let timeout = parse_timeout(timeout_text(spec)).unwrap_or(Duration::from_mins(30));
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    i32::try_from(seconds.clamp(1, 86_400)).unwrap_or(86_400)
}

/// The allowed origins: the user's, trimmed, or `*`.
pub fn origins(spec: &MCPServerSpec) -> Vec<&str> {
    match spec.config.get(CORS_ORIGINS) {
        Some(text) if spec.transport == Transport::Http => text.split(',').map(str::trim).collect(),
        _ => vec!["*"],
    }
}

/// Whether the text is `*` or `scheme://host[:port]`, which is all that browsers send.
pub fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    // The parser adds a path of "/" to web addresses; an origin has none. It also takes a colon without a port.
    !rest.contains(['/', '?', '#', '@', '\\'])
        && !rest.ends_with(':')
        && !text.contains(char::is_whitespace)
        && url::Url::parse(text)
            .is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for text in [
            "*",
            "https://example.com",
            "http://localhost:3000",
            "https://[::1]:8443",
            "http://127.0.0.1",
            "vscode-webview://abc",
            "https://*.example.com",
        ] {
            assert!(is_origin(text), "{text:?} should be an origin");
        }
        for text in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://a b",
            "https://user@example.com",
            "https://example.com?x",
            "https://example.com:99999",
            "://x",
            "javascript:alert(1)",
            "null",
            "https://example.com#x",
            "https://:80",
            "https://a.b:",
            "https://[::1]:",
            "vscode-webview://abc:",
        ] {
            assert!(!is_origin(text), "{text:?} should be no origin");
        }
    }

    #[test]
    fn affinity_follows_the_session_timeout_within_kubernetes_bounds() {
        let mut spec = MCPServerSpec {
            transport: Transport::StreamableHttp,
            ..Default::default()
        };
        assert_eq!(affinity_seconds(&spec), 1800, "the default is 30 minutes");
        for (text, seconds) in [
            ("90s", 90),
            ("1ms", 1),
            ("1500ms", 2),
            ("24h", 86_400),
            ("1000h", 86_400),
        ] {
            spec.config
                .insert(SESSION_TIMEOUT.to_owned(), text.to_owned());
            assert_eq!(affinity_seconds(&spec), seconds, "{text}");
        }
    }
}
