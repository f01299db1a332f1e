//! Image references as nodes read them: `[registry/]repository[:tag][@digest]`.
//!
//! This accepts exactly what `ParseNormalizedNamed` of Go's `github.com/distribution/reference` 0.6 accepts, which the
//! kubelet and containerd call; `tests/oracles` compares the two.
//!
//! This is our own code because the published crates fall short. `oci-spec` 0.10 keeps 12 MiB for its regular
//! expression after the first use, accepts letters of any script in a tag, accepts digests in upper case, and refuses
//! IPv6 hosts. `container_image_dist_ref` 0.3 differs from Go in corner cases and has unsafe code.

/// Most bytes of a repository's name, with `library/` and without the registry.
const MOST_OF_NAME: usize = 255;
/// Most bytes of a tag.
const MOST_OF_TAG: usize = 128;
/// The registry of a reference that names none. A repository of one part is in `library/` there.
const DEFAULT_HOST: &str = "docker.io";
/// Its older name.
const LEGACY_HOST: &str = "index.docker.io";
const LIBRARY: &str = "library/";

/// The tag and the digest of a reference. Nothing is filled in: there is no default tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageReference<'a> {
    /// The part after the `:`.
    pub tag: Option<&'a str>,
    /// The part after the `@`, with the algorithm.
    pub digest: Option<&'a str>,
}

/// Parses a reference. Returns `None` for what nodes refuse.
pub fn parse(text: &str) -> Option<ImageReference<'_>> {
    if is_identifier(text) {
        return None;
    }
    let (tagged, digest) = cut(text, '@');
    let (host, rest) = split_host(tagged);
    let (path, tag) = cut(rest, ':');
    let valid = is_name(host, path) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    valid.then_some(ImageReference { tag, digest })
}

/// Splits at the first separator, if there is one.
fn cut(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Whether the text is the id of an image. To Docker it means a local image, so it cannot be a repository.
fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_lower_hex)
}

/// Splits off the registry. The first part is a registry if it looks like one.
fn split_host(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_HOST, rest)) => (DEFAULT_HOST, rest),
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_HOST, text),
    }
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(|c: char| matches!(c, '.' | ':') || c.is_ascii_uppercase())
}

fn is_name(host: &str, path: &str) -> bool {
    let in_library = host == DEFAULT_HOST && !path.contains('/');
    let prefix = match is_host(host) {
        true if in_library => LIBRARY.len(),
        true => 0,
        // `my_team.x/app`: no host name has an underscore, so Go reads it as a part of the path.
        false if is_component(host) => host.len() + 1,
        false => return false,
    };
    prefix + path.len() <= MOST_OF_NAME && path.split('/').all(is_component)
}

/// `a.b:5000` or `[::1]:5000`; the port may be left out.
fn is_host(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let valid = |c: char| c.is_ascii_hexdigit() || c == ':';
        return !address.is_empty()
            && address.chars().all(valid)
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = cut(text, ':');
    name.split('.').all(is_host_label) && port.is_none_or(is_port)
}

fn is_host_label(label: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-';
    label.starts_with(ends) && label.ends_with(ends) && label.chars().all(valid)
}

/// Any number: Go has no limit here.
fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A part of the path: letters and digits with `.`, `_`, `__` or any number of dashes between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.split(alphanumeric).all(separator)
}

fn is_tag(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.len() <= MOST_OF_TAG && text.starts_with(first) && text.chars().all(valid)
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else {
        return false;
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    encoded.len() == length && encoded.bytes().all(is_lower_hex)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{ImageReference, parse};

    fn digest(algorithm: &str, letter: &str, times: usize) -> String {
        format!("{algorithm}:{}", letter.repeat(times))
    }

    #[test]
    fn what_nodes_take_is_taken() {
        let sha256 = digest("sha256", "a", 64);
        for (what, text) in [
            ("a bare name", "node".to_owned()),
            ("a user's repository", "user/app".to_owned()),
            ("many parts", "a/b/c/d/e:1".to_owned()),
            ("a registry", "example.com/app:1".to_owned()),
            ("a registry's port", "example.com:5000/app:1".to_owned()),
            ("a port of any size", format!("h:{}/app", "9".repeat(99))),
            ("localhost without a port", "localhost/app".to_owned()),
            ("the default registry", "docker.io/app".to_owned()),
            ("its older name", "index.docker.io/app".to_owned()),
            ("an IPv4 host", "10.0.0.1:80/app".to_owned()),
            ("an IPv6 host", "[fd00::1]/app:1".to_owned()),
            ("an IPv6 host with a port", "[::1]:5000/app:1".to_owned()),
            (
                "brackets with upper case and no colon",
                "[ABC]/app".to_owned(),
            ),
            ("a registry in upper case", "Example.COM/app".to_owned()),
            (
                "one word in upper case for a registry",
                "TEAM/app".to_owned(),
            ),
            ("dashes in a registry", "a--b.c/app".to_owned()),
            ("each separator of a name", "a.b_c__d-e---f".to_owned()),
            ("an underscore in the first part", "a_b/app".to_owned()),
            (
                "an underscore and a dot in the first part",
                "a_b.c/app".to_owned(),
            ),
            ("digits alone", "1/2:3".to_owned()),
            ("a number that could be a port", "localhost:5000".to_owned()),
            ("a tag in upper case", "app:V1.0-RC_1".to_owned()),
            ("a tag that starts with an underscore", "app:_".to_owned()),
            ("the longest tag", format!("app:{}", "t".repeat(128))),
            ("the longest name", format!("a.b/{}", "n".repeat(255))),
            ("the longest bare name", "n".repeat(247)),
            (
                "the longest name in the default registry",
                format!("docker.io/{}", "n".repeat(247)),
            ),
            (
                "the longest name with a slash there",
                format!("a/{}", "n".repeat(253)),
            ),
            (
                "the longest name with no host",
                format!("a_c.b/{}", "n".repeat(249)),
            ),
            (
                "a registry longer than a name",
                format!("{}a/app", "a.".repeat(400)),
            ),
            ("a digest", format!("app@{sha256}")),
            ("a tag and a digest", format!("app:1@{sha256}")),
            ("SHA-384", format!("app@{}", digest("sha384", "0", 96))),
            ("SHA-512", format!("app@{}", digest("sha512", "f", 128))),
            (
                "a digest alone, which is read as a name and its tag",
                sha256,
            ),
            ("63 hex digits", "a".repeat(63)),
            ("64 hex digits with a tag", format!("{}:1", "a".repeat(64))),
            (
                "64 hex digits of a user",
                format!("user/{}", "a".repeat(64)),
            ),
        ] {
            assert!(parse(&text).is_some(), "{what}: {text}");
        }
    }

    #[allow(clippy::too_many_lines, reason = "a table")]
    #[test]
    fn what_nodes_refuse_is_refused() {
        let sha256 = digest("sha256", "a", 64);
        for (what, text) in [
            ("nothing", String::new()),
            ("64 hex digits, which is an image's id", "a".repeat(64)),
            ("upper case", "App".to_owned()),
            ("upper case behind a registry", "example.com/App".to_owned()),
            ("upper case behind upper case", "TEAM/App".to_owned()),
            ("a letter of another script in the name", "é".to_owned()),
            ("a letter of another script in the tag", "app:é".to_owned()),
            ("a digit of another script in the tag", "app:٣".to_owned()),
            (
                "a letter of another script in the registry",
                "é.x/app".to_owned(),
            ),
            ("a space", "a b".to_owned()),
            ("a space before", " app".to_owned()),
            ("a line's end behind", "app\n".to_owned()),
            ("an empty tag", "app:".to_owned()),
            ("two tags", "app:1:2".to_owned()),
            ("a tag that starts with a dash", "app:-1".to_owned()),
            ("a tag that starts with a dot", "app:.1".to_owned()),
            ("a tag that is too long", format!("app:{}", "t".repeat(129))),
            ("an empty part", "a//b".to_owned()),
            ("an empty first part", "/app".to_owned()),
            ("an empty last part", "app/".to_owned()),
            ("a registry alone", "example.com/".to_owned()),
            ("a registry with a tag alone", "example.com/:1".to_owned()),
            ("a scheme", "https://example.com/app".to_owned()),
            ("two dots", "a..b".to_owned()),
            ("three underscores", "a___b".to_owned()),
            ("two kinds of separators", "a._b".to_owned()),
            ("a dash at the end", "app-".to_owned()),
            ("a dot at the start", ".app".to_owned()),
            (
                "a registry that ends with a dot",
                "example.com./app".to_owned(),
            ),
            (
                "a registry's part with a dash at the end",
                "a-.b/app".to_owned(),
            ),
            ("an empty port", "example.com:/app".to_owned()),
            ("a port in letters", "example.com:http/app".to_owned()),
            ("a tag between parts", "a/b:1/c".to_owned()),
            (
                "an underscore in a registry with a port",
                "a_b:5000/app".to_owned(),
            ),
            ("brackets around nothing", "[]:1/app".to_owned()),
            ("brackets without a colon", "[abc]/app".to_owned()),
            ("a bracket that is not closed", "[::1/app".to_owned()),
            ("text behind the bracket", "[::1]5000/app".to_owned()),
            ("an IPv6 zone", "[fe80::1%eth0]/app".to_owned()),
            ("an IPv6 host without brackets", "::1/app".to_owned()),
            (
                "a name that is too long",
                format!("a.b/{}", "n".repeat(256)),
            ),
            ("a bare name that is too long", "n".repeat(248)),
            (
                "a name of the default registry that is too long",
                format!("docker.io/{}", "n".repeat(248)),
            ),
            (
                "a name with no host that is too long",
                format!("a_c.b/{}", "n".repeat(250)),
            ),
            ("no digest", "app@".to_owned()),
            ("no name", format!("@{sha256}")),
            ("a tag alone", ":1".to_owned()),
            ("a tag behind the digest", format!("app@{sha256}:1")),
            ("two digests", format!("app@{sha256}@{sha256}")),
            (
                "a digest in upper case",
                format!("app@{}", digest("sha256", "A", 64)),
            ),
            (
                "an algorithm in upper case",
                format!("app@{}", digest("SHA256", "a", 64)),
            ),
            (
                "a digest that is too short",
                format!("app@{}", digest("sha256", "a", 63)),
            ),
            (
                "a digest that is too long",
                format!("app@{}", digest("sha256", "a", 65)),
            ),
            (
                "a digest that is not in hex",
                format!("app@{}", digest("sha256", "g", 64)),
            ),
            (
                "an algorithm that nodes do not know",
                format!("app@{}", digest("md5", "a", 32)),
            ),
            (
                "an algorithm of two parts",
                format!("app@{}", digest("sha256+b64", "a", 64)),
            ),
        ] {
            assert_eq!(parse(&text), None, "{what}: {text}");
        }
    }

    #[test]
    fn tag_and_digest_are_given_as_written() {
        let sha256 = digest("sha256", "a", 64);
        for (what, text, tag, digest) in [
            ("none of them", "app".to_owned(), None, None),
            ("a tag", "app:latest".to_owned(), Some("latest"), None),
            ("a port is no tag", "h:5000/app".to_owned(), None, None),
            (
                "a tag beside a port",
                "h:5000/app:1".to_owned(),
                Some("1"),
                None,
            ),
            (
                "a tag beside an IPv6 host",
                "[::1]/app:1".to_owned(),
                Some("1"),
                None,
            ),
            (
                "a digest",
                format!("app@{sha256}"),
                None,
                Some(sha256.as_str()),
            ),
            (
                "both",
                format!("app:1@{sha256}"),
                Some("1"),
                Some(sha256.as_str()),
            ),
        ] {
            assert_eq!(
                parse(&text),
                Some(ImageReference { tag, digest }),
                "{what}: {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn nothing_like_a_reference_panics(text in r"[aA0é._:/@\[\]-]{0,40}(@sha256:[a-f0-9]{60,68})?") {
            if let Some(found) = parse(&text) {
                prop_assert!(text.is_ascii());
                let mut end = String::new();
                end.extend(found.tag.map(|tag| format!(":{tag}")));
                end.extend(found.digest.map(|digest| format!("@{digest}")));
                prop_assert!(text.ends_with(&end));
            }
        }

        /// A mebibyte takes milliseconds; with the square of its length it would take hours.
        #[test]
        fn time_grows_with_the_length(head in r"[a0._:/@\[-]{0,9}", part in r"[a0A._:/@\[\]-]{1,9}") {
            let text = head + &part.repeat((1 << 20) / part.len());
            let start = Instant::now();
            let _ = parse(&text);
            prop_assert!(start.elapsed() < Duration::from_secs(5), "{part:?} again and again");
        }
    }
}
