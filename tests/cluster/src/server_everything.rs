//! The image of a third-party MCP server: npm's `@modelcontextprotocol/server-everything`.
//!
//! No base image is pulled: npm installs what the committed lock file pins, and this machine's
//! node is put beside it with its libraries. Built once and kept, as the Go tools are. It stands in
//! for the images of `config/samples`, too, so it has what they have where they have it: `node`, a shell,
//! `/app/dist`, and the bridge `supergateway`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::image::{self, Image};
use crate::process::Family;
use crate::tools;

/// The image's name. Without arguments it speaks stdio; with `streamableHttp` it serves `/mcp` on
/// the port that the environment variable `PORT` says, or 3001.
pub const NAME: &str = "mcp.example.com/server-everything:2026.8.31";

/// The images of `config/samples/valid` and `config/samples/exposed` that it stands in for: nothing is pulled here.
pub const STANDS_IN_FOR: [&str; 4] = [
    "docker.io/library/node:18-alpine",
    "docker.io/mcp/everything:latest",
    "registry.example.com/mcp/stdio-bridge:1.0.0",
    "registry.example.com/team/mcp-server:1.0.0",
];

/// The folder of package.json and package-lock.json.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/server-everything");
const FILES: [&str; 2] = ["package.json", "package-lock.json"];
/// Where it is in the image.
const PROGRAM: &str = "/app/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
const NODE: &str = "/usr/bin/node";
/// What npm's programs are started by, and what the bridge starts its program by.
const STARTERS: [&str; 2] = ["/usr/bin/env", "/bin/sh"];
/// Where the images of samples have the server's files.
const DIST: (&str, &str) = (
    "/app/dist",
    "node_modules/@modelcontextprotocol/server-everything/dist",
);
/// To be changed with what this file does, as that decides the content, too.
const RECIPE: &str = "2";
const WHAT_TO_DO: &str = "Node.js 20 or newer with npm is needed to build the image of \
    server-everything: install it from https://nodejs.org (or the packages nodejs and npm) and \
    have `node` and `npm` in the PATH";

/// The image's tarball, built if that has not been done before.
///
/// It is kept in `images` beside the built tools (see [`tools::build`]), by the content of what
/// it is built from. Any number of processes may ask at once; one builds. Fails with what to do
/// if there is no Node.js.
pub async fn image() -> Result<PathBuf> {
    let node = Node::find().await?;
    let folder = tools::folder().join("images");
    let tarball = folder.join(format!("server-everything-{}.tar", key(&node)?));
    // Whole or not there at all, as it gets its name when it is complete.
    if tarball.is_file() {
        return Ok(tarball);
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("creating the folder {} for images", folder.display()))?;
    let lock = tools::lock(&folder.join("lock")).await?;
    if !tarball.is_file() {
        tools::remove_leftovers(&folder)?;
        build(&node, &folder, &tarball)
            .await
            .with_context(|| format!("building the image {NAME}"))?;
    }
    drop(lock);
    Ok(tarball)
}

/// Fails with what to do if there is no Node.js that [`image`] can use.
pub(crate) async fn check() -> Result<()> {
    Node::find().await.map(drop)
}

/// This machine's Node.js.
struct Node {
    program: PathBuf,
    version: String,
    /// The libraries that it and [`STARTERS`] are linked with, their loader included.
    libraries: BTreeSet<PathBuf>,
}

impl Node {
    async fn find() -> Result<Self> {
        ensure!(
            cfg!(target_os = "linux"),
            "the image of server-everything can be built on Linux only"
        );
        output("npm", &["--version"]).await.context(WHAT_TO_DO)?;
        let told = ["-p", "process.execPath + '\\n' + process.version"];
        let told = output("node", &told).await.context(WHAT_TO_DO)?;
        let (program, version) = told
            .trim()
            .split_once('\n')
            .with_context(|| format!("node said {told:?}"))?;
        ensure!(
            new_enough(version),
            "{WHAT_TO_DO} (found: {version} at {program})"
        );
        let mut libraries = BTreeSet::new();
        for program in [program].into_iter().chain(STARTERS) {
            let printed = output("ldd", &[program])
                .await
                .with_context(|| format!("looking for the libraries of {program}"))?;
            libraries.extend(libraries_in(&printed)?);
        }
        Ok(Self {
            program: program.into(),
            version: version.to_owned(),
            libraries,
        })
    }
}

/// Whether a version, as in `v20.1.0`, is one that runs the server.
fn new_enough(version: &str) -> bool {
    let major = version.trim_start_matches('v').split('.').next();
    major.is_some_and(|major| major.parse::<u32>().is_ok_and(|major| major >= 20))
}

/// The files in the output of ldd.
fn libraries_in(output: &str) -> Result<Vec<PathBuf>> {
    if let Some(line) = output.lines().find(|line| line.contains("not found")) {
        bail!("node lacks a library: {}", line.trim());
    }
    let words = output.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// A name for what would be built.
fn key(node: &Node) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    };
    for file in FILES {
        let path = Path::new(SOURCES).join(file);
        add(&std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let size = std::fs::metadata(&node.program)
        .with_context(|| format!("looking at {}", node.program.display()))?
        .len();
    for text in [RECIPE, NAME, &node.version, std::env::consts::ARCH] {
        add(text.as_bytes());
    }
    for text in STANDS_IN_FOR {
        add(text.as_bytes());
    }
    add(&size.to_be_bytes());
    let mut name = format!("{:x}", hash.finalize());
    name.truncate(32);
    Ok(name)
}

async fn build(node: &Node, folder: &Path, tarball: &Path) -> Result<()> {
    eprintln!("building the image {NAME}, once: npm and packing; about half a minute");
    let unfinished = tempfile::Builder::new()
        .prefix(tools::UNFINISHED)
        .tempdir_in(folder)
        .with_context(|| format!("creating a folder in {}", folder.display()))?
        .keep();
    let mut family = Family::new(&unfinished)?;
    let root = unfinished.join("root");
    let app = root.join("app");
    for file in FILES {
        copy(&Path::new(SOURCES).join(file), &app.join(file))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&app)
        .args(["ci", "--omit=dev", "--ignore-scripts"])
        .args(["--no-audit", "--no-fund", "--no-update-notifier"])
        // Its cache and logs go with the folder.
        .arg("--cache")
        .arg(unfinished.join("npm"));
    let npm = family.start("npm ci", npm, &unfinished.join("log"), false)?;
    while npm.success().is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if npm.success() != Some(true) {
        npm.alive()?;
    }
    copy(&node.program, &inside(&root, Path::new(NODE)))?;
    for program in STARTERS.map(Path::new) {
        copy(program, &inside(&root, program))?;
    }
    for library in &node.libraries {
        copy(library, &inside(&root, library))?;
    }
    let (link, target) = DIST;
    std::os::unix::fs::symlink(target, inside(&root, Path::new(link)))
        .with_context(|| format!("linking {link} in the image"))?;
    ensure!(
        inside(&root, Path::new(PROGRAM)).is_file(),
        "npm installed no {PROGRAM}"
    );
    let made = unfinished.join("image.tar");
    let image = Image {
        name: NAME,
        also: &STANDS_IN_FOR,
        entrypoint: &[NODE, PROGRAM],
        user: "1000:1000",
        folder: "/app",
        environment: &[
            "NODE_ENV=production",
            "PATH=/usr/bin:/bin:/app/node_modules/.bin",
        ],
        labels: [("org.opencontainers.image.title", "server-everything")].into(),
        ..Image::default()
    };
    let packing = move || -> Result<PathBuf> {
        image::write(&image, &root, &made)?;
        Ok(made)
    };
    let made = tokio::task::spawn_blocking(packing)
        .await
        .context("packing")??;
    std::fs::rename(&made, tarball)
        .with_context(|| format!("renaming {} to {}", made.display(), tarball.display()))?;
    family.end()
}

/// Where a file of the image is now.
fn inside(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}

/// Copies a file, or what a link to one leads to, making the folder it is to be in.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::copy(from, to).map(drop)
    };
    copy().with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// What a program says, in good health.
async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let output = "\tlinux-vdso.so.1 (0x00007f1d9e119000)\n\
                      \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1d9e023000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f1d9e11b000)\n";
        assert_eq!(
            libraries_in(output).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2"),
            ]
        );
        let error = libraries_in("\tlibx.so => not found\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "node lacks a library: libx.so => not found"
        );
    }

    #[test]
    fn an_old_node_is_refused() {
        for (version, expected) in [("v18.20.4", false), ("v20.0.0", true), ("v9.1.0", false)] {
            assert_eq!(new_enough(version), expected, "{version}");
        }
    }

    /// npm adds it when asked to, and it would name the machine's own mirror.
    #[test]
    fn the_lock_file_names_no_registry() {
        let lock = Path::new(SOURCES).join("package-lock.json");
        let lock = std::fs::read_to_string(lock).unwrap();
        assert!(!lock.contains("\"resolved\""));
        assert!(lock.contains("\"integrity\""));
    }
}
