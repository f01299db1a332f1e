//! Syntax of Kubernetes' names, keys and labels (k8s.io/apimachinery `validation`).

/// The most characters of a DNS-1123 subdomain.
pub const LONGEST_SUBDOMAIN: usize = 253;
/// The most characters of a label's value.
pub const LONGEST_LABEL_VALUE: usize = 63;
/// The most characters of a label's or annotation's key: a subdomain, a slash, and a name.
pub const LONGEST_QUALIFIED_NAME: usize = LONGEST_SUBDOMAIN + 1 + 63;
/// The most characters of a server's path: an HTTPRoute takes no longer one.
pub const LONGEST_PATH: usize = 1024;

/// What a DNS-1035 label looks like, for messages.
pub const DNS_1035: &str = "must be a DNS-1035 label of at most 63 characters: lower case letters, digits and '-', \
     starting with a letter, ending with a letter or digit (for example 'my-server')";
/// What a DNS-1123 subdomain looks like, for messages.
pub const DNS_1123: &str = "must be a DNS-1123 subdomain of at most 253 characters: lower case letters, digits, '-' and '.', \
     starting and ending with a letter or digit (for example 'my-account')";
/// What a DNS-1123 label looks like, for messages.
pub const DNS_1123_LABEL: &str = "must be a DNS-1123 label of at most 63 characters: lower case letters, digits and '-', \
     starting and ending with a letter or digit (for example 'my-name')";
/// What a ConfigMap key looks like, for messages.
pub const CONFIG_MAP_KEY: &str = "must be a ConfigMap key of at most 253 characters: letters, digits, '-', '_' and '.', \
     not '.' and not starting with '..'";
/// What an environment variable's name looks like, for messages.
pub const ENV_NAME: &str = "must be printable ASCII characters other than '='";
/// What a label's or annotation's key looks like, for messages.
pub const QUALIFIED_NAME: &str = "must be at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit, \
     with an optional DNS subdomain and '/' before it (for example 'example.com/name')";
/// What a label's value looks like, for messages.
pub const LABEL_VALUE: &str = "must be empty or at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit";

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn bounded_by(text: &str, edge: impl Fn(u8) -> bool) -> bool {
    matches!((text.bytes().next(), text.bytes().last()), (Some(a), Some(b)) if edge(a) && edge(b))
}

/// A label of DNS that starts with a letter: the name of a Service.
pub fn is_dns1035_label(text: &str) -> bool {
    text.len() <= 63
        && bounded_by(text, lower)
        && text.bytes().all(|b| lower(b) || b == b'-')
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

/// A label of DNS: the name of a container or a volume.
pub fn is_dns1123_label(text: &str) -> bool {
    text.len() <= 63 && bounded_by(text, lower) && text.bytes().all(|b| lower(b) || b == b'-')
}

/// A name of most objects.
pub fn is_dns1123_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_SUBDOMAIN
        && text
            .split('.')
            .all(|label| bounded_by(label, lower) && label.bytes().all(|b| lower(b) || b == b'-'))
}

/// A key of a ConfigMap.
pub fn is_config_map_key(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text != "."
        && !text.starts_with("..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A name of an environment variable (Kubernetes 1.34 and later; relaxed since 1.30).
pub fn is_env_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn is_label_part(text: &str) -> bool {
    text.len() <= 63
        && bounded_by(text, |b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A key of a label or annotation.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns1123_subdomain(prefix) && is_label_part(name),
        None => is_label_part(text),
    }
}

/// A value of a label.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_part(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        type Rule = fn(&str) -> bool;
        let long = "a".repeat(64);
        let longest = "a".repeat(63);
        let table: &[(&str, Rule, &[&str], &[&str])] = &[
            (
                "DNS-1035 label",
                is_dns1035_label,
                &["a", "a-1", &longest],
                &["", "1a", "a-", "-a", "A", "a.b", &long],
            ),
            (
                "DNS-1123 label",
                is_dns1123_label,
                &["a", "1a", "a-1", &longest],
                &["", "a-", "-a", "A", "a.b", "a_b", &long],
            ),
            (
                "DNS-1123 subdomain",
                is_dns1123_subdomain,
                &["a", "1a", "a.b-c"],
                &["", "a..b", "-a", "A", "a_b"],
            ),
            (
                "ConfigMap key",
                is_config_map_key,
                &["A", "a.b_c-d", ".x"],
                &["", ".", "..", "..x", "a b", "a/b", "é"],
            ),
            (
                "env name",
                is_env_name,
                &["A", "a b", "1-x.y", "\"q\""],
                &["", "a=b", "é", "a\tb"],
            ),
            (
                "qualified name",
                is_qualified_name,
                &["a", "A.b_c", "example.com/a"],
                &["", "/a", "a/", "a/b/c", "-a", "a b", &long],
            ),
            (
                "label value",
                is_label_value,
                &["", "a", "A-b"],
                &["-a", "a b", &long],
            ),
        ];
        for (what, rule, good, bad) in table {
            for text in *good {
                assert!(rule(text), "{text:?} should be a {what}");
            }
            for text in *bad {
                assert!(!rule(text), "{text:?} should be no {what}");
            }
        }
    }
}
