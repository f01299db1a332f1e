//! `api::image_reference` against `github.com/distribution/reference`, with which nodes read an image.

use cluster::oracles::{Answer, Oracle, ask};
use mcp_operator::api::image_reference;
use serde::Deserialize;

use crate::made_up::{Random, all_texts};

/// What is put in to spoil a reference.
const SPOILERS: [&str; 27] = [
    "a", "f", "A", "0", ".", "_", "__", "-", "--", ":", "/", "//", "@", "[", "]", "::", "+", "=",
    "%", " ", "\n", "\0", "é", "İ", "٣", "ſ", "library/",
];
/// One of each sort of character; all short texts of these are compared.
const LETTERS: [&str; 11] = ["a", "A", "0", ".", "_", "-", ":", "/", "@", "[", "]"];

#[derive(Debug, Deserialize)]
struct Parts {
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

#[tokio::test]
async fn image_references_are_read_as_nodes_read_them() {
    let mut texts = all_texts(&LETTERS, 4);
    texts.extend(around_the_longest());
    let mut random = Random::new(1);
    while texts.len() < crate::count() {
        texts.push(made_up(&mut random));
    }
    let answers = ask(Oracle::Image, &texts).await.unwrap();
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    let differences: Vec<_> = texts
        .iter()
        .zip(&answers)
        .filter(|(text, answer)| !agrees(text, answer))
        .map(|(text, answer)| {
            let ours = image_reference::parse(text);
            format!("{text:?}: Go {answer:?}, we {ours:?}")
        })
        .collect();
    crate::no_differences(texts.len(), taken, &differences);
}

fn agrees(text: &str, answer: &Answer<Parts>) -> bool {
    match (image_reference::parse(text), answer) {
        (None, Err(_)) => true,
        (Some(ours), Ok(parts)) => {
            let mut end = parts.path.trim_start_matches("library/").to_owned();
            end.extend(ours.tag.map(|tag| format!(":{tag}")));
            end.extend(ours.digest.map(|digest| format!("@{digest}")));
            ours.tag == parts.tag.as_deref()
                && ours.digest == parts.digest.as_deref()
                && text.ends_with(&end)
        }
        _ => false,
    }
}

/// Names of about the most bytes that there may be, which are counted in another way with each of these.
fn around_the_longest() -> Vec<String> {
    let starts = [
        "",
        "a/",
        "a_b/",
        "a_b.c/",
        "a.b/",
        "a:1/",
        "A/",
        "[::1]/",
        "localhost/",
        "localhost:1/",
        "docker.io/",
        "docker.io/a/",
        "docker.io/library/",
        "docker.io:1/",
        "index.docker.io/",
        "index.docker.io/a/",
        "library/",
    ];
    let of_length = |length: usize| starts.map(|start| start.to_owned() + &"n".repeat(length));
    (235..260).flat_map(of_length).collect()
}

fn made_up(random: &mut Random) -> String {
    if random.once_in(20) {
        let length = random.below(24);
        return (0..length).map(|_| random.pick(&SPOILERS)).collect();
    }
    let mut text = String::new();
    if random.once_in(2) {
        text.push_str(&host(random));
        text.push('/');
    }
    text.push_str(&path(random));
    if random.once_in(2) {
        text.push(':');
        text.push_str(&tag(random));
    }
    if random.once_in(3) {
        text.push('@');
        text.push_str(&digest(random));
    }
    if random.once_in(3) {
        text = random.spoil(&text, &SPOILERS);
    }
    text
}

fn host(random: &mut Random) -> String {
    let mut host = match random.below(10) {
        0 => "localhost".to_owned(),
        1 => random
            .pick(&["docker.io", "index.docker.io", "docker.com", "Docker.io"])
            .to_owned(),
        2 => {
            let length = random.below(12);
            format!("[{}]", random.text("0123456789abcdefABCDEF::::", length))
        }
        3 => random
            .pick(&[
                "[::1]",
                "[fe80::1%eth0]",
                "[::ffff:10.0.0.1]",
                "10.0.0.1",
                "[1]",
                "a_b.c",
                "a__b",
            ])
            .to_owned(),
        4 => "a.".repeat(random.between(1, 200)) + "a",
        _ => {
            let parts = random.between(1, 4);
            let label = |_| {
                let length = random.between(1, 8);
                let alphabet = random.pick(&["abcxyz019", "abcXYZ019", "ab-", "ab_-"]);
                random.text(alphabet, length)
            };
            (0..parts).map(label).collect::<Vec<_>>().join(".")
        }
    };
    if random.once_in(3) {
        let length = random.below(7);
        host.push(':');
        host.push_str(&random.text("0123456789", length));
    }
    host
}

fn path(random: &mut Random) -> String {
    match random.below(16) {
        // Around the longest there may be, and around the id of an image.
        0 => {
            let length = random.between(240, 260);
            random.text("abc", length)
        }
        1 => {
            let head = path_of_parts(random);
            let length = random.between(240, 260).saturating_sub(head.len());
            format!("{head}/{}", random.text("abc", length))
        }
        2 => {
            let length = random.between(63, 65);
            random.text("0123456789abcdef", length)
        }
        3 => format!("library/{}", path_of_parts(random)),
        _ => path_of_parts(random),
    }
}

fn path_of_parts(random: &mut Random) -> String {
    let parts = random.between(1, 4);
    let part = |_| component(random);
    (0..parts).map(part).collect::<Vec<_>>().join("/")
}

fn component(random: &mut Random) -> String {
    let length = random.between(1, 6);
    let mut text = random.text("abcdefxyz0123456789", length);
    while random.once_in(3) {
        text.push_str(random.pick(&[
            ".", "_", "__", "-", "--", "---", ".", "_", "__", "-", "___", "..", "._", "-_",
        ]));
        let length = random.between(1, 4);
        text.push_str(&random.text("abcxyz019", length));
    }
    text
}

fn tag(random: &mut Random) -> String {
    let length = match random.below(8) {
        0 => random.between(126, 130),
        _ => random.between(1, 10),
    };
    let alphabet = random.pick(&["abcXYZ019_", "abcXYZ019_.-"]);
    random.text(alphabet, length)
}

fn digest(random: &mut Random) -> String {
    let algorithms = ["sha256", "sha384", "sha512"];
    let (algorithm, length) = match random.below(8) {
        0 => (
            random.pick(&[
                "md5",
                "SHA256",
                "sha1",
                "sha256+b64",
                "sha224",
                "sha512-256",
                "",
            ]),
            64,
        ),
        1 => (
            random.pick(&algorithms),
            random
                .pick(&[&31, &32, &63, &64, &65, &96, &128])
                .to_owned(),
        ),
        _ => {
            let index = random.below(3);
            (algorithms[index], [64, 96, 128][index])
        }
    };
    let alphabet = random.pick(&[
        "0123456789abcdef",
        "0123456789abcdef",
        "0123456789abcdef",
        "0123456789abcdefA",
        "abcdefg",
    ]);
    format!("{algorithm}:{}", random.text(alphabet, length))
}
