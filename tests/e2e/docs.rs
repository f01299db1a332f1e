//! Links lead somewhere, and commands are ones that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use mcp_operator::cli::Cli;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the repository, by its path, with its text.
fn pages() -> Result<BTreeMap<PathBuf, String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .arg("*.md")
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout)?;
    let read = |path: &str| anyhow::Ok((path.into(), std::fs::read_to_string(root().join(path))?));
    let pages: BTreeMap<_, _> = listed.lines().map(read).collect::<Result<_>>()?;
    ensure!(pages.len() > 20, "{:?}", pages.keys());
    Ok(pages)
}

/// The names of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let text = heading.take().unwrap_or_default().to_lowercase();
                let kept = text
                    .chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                anchors.insert(kept.collect::<String>().trim().replace(' ', "-"));
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            _ => {}
        }
    }
    anchors
}

fn links(text: &str) -> Vec<String> {
    let events = Parser::new_ext(text, Options::ENABLE_TABLES);
    let links = events.filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url),
        _ => None,
    });
    links.map(|link| link.to_string()).collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let pages = pages()?;
    let mut dead = Vec::new();
    let mut followed = 0;
    for (page, text) in &pages {
        for link in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = page.parent().context("a page has a folder")?;
            let target = match file {
                "" => page.clone(),
                file => plain(&folder.join(file)),
            };
            let found = match pages.get(&target) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && root().join(&target).exists(),
            };
            if !found {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(followed > 100, "{followed} links");
    assert!(dead.is_empty(), "{dead:#?}");
    Ok(())
}

#[test]
fn every_page_of_the_docs_is_in_the_site() -> Result<()> {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md"))?;
    let listed: BTreeSet<_> = links(&summary)
        .into_iter()
        .map(|link| Path::new("docs").join(link))
        .collect();
    let pages = pages()?;
    let pages = pages.keys().filter(|page| page.starts_with("docs"));
    let all: BTreeSet<_> = pages
        .filter(|page| !page.ends_with("SUMMARY.md"))
        .cloned()
        .collect();
    assert_eq!(listed, all);
    Ok(())
}

/// The lines of code blocks, each with what it is continued by.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut in_code = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_code = true,
            Event::End(TagEnd::CodeBlock) => in_code = false,
            Event::Text(part) if in_code => {
                let joined = part.replace("\\\n", " ");
                commands.extend(joined.lines().map(|line| {
                    let line = line.trim().trim_start_matches("$ ");
                    // A comment of the shell, or what the output goes to.
                    let line = line.split(" #").next().unwrap_or_default();
                    line.split(" | ").next().unwrap_or_default().to_owned()
                }));
            }
            _ => {}
        }
    }
    commands
}

#[test]
fn the_operator_takes_every_command_that_pages_tell() -> Result<()> {
    let mut tried = 0;
    for (page, text) in pages()? {
        for command in commands(&text) {
            let words: Vec<_> = command
                .split_whitespace()
                .map(|word| word.trim_matches(['"', '\'']))
                .collect();
            if words.first() != Some(&"mcp-operator") || words.get(1).is_none() {
                continue;
            }
            let parsed = Cli::try_parse_from(&words);
            let told = parsed.err().map(|error| error.to_string());
            assert!(
                told.is_none(),
                "{}: {command}: {}",
                page.display(),
                told.unwrap_or_default()
            );
            tried += 1;
        }
    }
    assert!(tried >= 4, "{tried} commands");
    Ok(())
}

/// just is not needed to run what the justfile has; the two must not part.
#[test]
fn the_justfile_has_what_contributors_are_told() -> Result<()> {
    let justfile = std::fs::read_to_string(root().join("justfile"))?;
    let recipes: BTreeSet<_> = justfile
        .lines()
        .filter(|line| !line.starts_with([' ', '#']))
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(head, _)| head.split_whitespace().next())
        .collect();
    let mut told = 0;
    for (page, text) in pages()? {
        let codes =
            Parser::new_ext(&text, Options::ENABLE_TABLES).filter_map(|event| match event {
                Event::Code(code) => Some(code.to_string()),
                _ => None,
            });
        for code in codes.chain(commands(&text)) {
            let mut words = code.split_whitespace();
            if words.next() == Some("just")
                && let Some(recipe) = words.next()
            {
                ensure!(
                    recipes.contains(recipe),
                    "{}: {code}: there are {recipes:?}",
                    page.display()
                );
                told += 1;
            }
        }
    }
    ensure!(told > 3, "{told} told");
    Ok(())
}
