//! The operator's image, made by the last stage of the Dockerfile as it stands there.
//!
//! The stage before it, which compiles, needs base images; a folder with the program built here takes its
//! place.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cargo::{self, Kind};
use crate::process::{Family, tail};

/// The image's name: the one in the chart's values, at this version.
pub const NAME: &str = concat!(
    "registry.example.com/mcp-operator/mcp-operator:",
    env!("CARGO_PKG_VERSION")
);

/// The program that builds it, and its package of Debian and Ubuntu.
pub const BUILDER: (&str, &str) = ("buildah", "buildah");

/// The section of the program with the list of what it was built from, as cargo-auditable writes it.
const DEPENDENCIES: &[u8] = b".dep-v0\0";

/// An image in a file.
#[derive(Debug)]
pub struct OperatorImage {
    /// In docker's archive format, for [`crate::Cluster::load_image`].
    pub tarball: PathBuf,
    /// Bytes of the program, which is all there is in it.
    pub size: u64,
    /// Bytes of the tarball when it is packed with gzip, as a registry keeps it.
    pub packed: u64,
    /// Whether the program carries the list of what it was built from; see [`Kind::Static`].
    pub auditable: bool,
}

/// Builds the operator and packs it. The tarball is in `folder`. Fails with what to do if there is no buildah.
pub async fn build(folder: &Path) -> Result<OperatorImage> {
    check_buildah().await?;
    let programs = cargo::build("mcp-operator", Kind::Static).await?;
    let program = programs.first().context("cargo built nothing")?;
    let content =
        std::fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let size = content.len() as u64;
    let mut windows = content.windows(DEPENDENCIES.len());
    let auditable = windows.any(|window| window == DEPENDENCIES);
    let tarball = folder.join("mcp-operator.tar");
    let scratch = tempfile::Builder::new()
        .prefix("mcp-image-")
        .tempdir()
        .context("creating a folder")?
        .keep();
    // With the family, buildah ends when this process does, and its storage goes.
    let mut family = Family::new(&scratch)?;
    // What the last stage copies from the stage called `build`.
    let out = scratch.join("build/out");
    std::fs::create_dir_all(&out).context("creating a folder")?;
    std::fs::copy(program, out.join("mcp-operator"))
        .with_context(|| format!("copying {}", program.display()))?;
    let revision = revision().await;
    let mut bud = buildah(&scratch);
    bud.args(["bud", "--isolation", "chroot", "--build-context"])
        .arg(format!("build={}", scratch.join("build").display()))
        .args(["--build-arg", "TARGETARCH=amd64", "--build-arg"])
        .arg(format!("VERSION={}", env!("CARGO_PKG_VERSION")))
        .args(["--build-arg", &format!("REVISION={revision}")])
        .args(["--tag", NAME, "--file"])
        .arg(cargo::workspace().join("Dockerfile"))
        // Nothing else is sent along.
        .arg(scratch.join("build"));
    run(&family, "buildah bud", bud, &scratch.join("bud.log")).await?;
    let mut push = buildah(&scratch);
    push.args(["push", NAME])
        .arg(format!("docker-archive:{}:{NAME}", tarball.display()));
    run(&family, "buildah push", push, &scratch.join("push.log")).await?;
    family.end()?;
    let file = tarball.clone();
    let packed = tokio::task::spawn_blocking(move || packed(&file))
        .await
        .context("packing")?
        .with_context(|| format!("packing {}", tarball.display()))?;
    Ok(OperatorImage {
        tarball,
        size,
        packed,
        auditable,
    })
}

/// How many bytes a file has when it is packed with gzip.
fn packed(file: &Path) -> std::io::Result<u64> {
    let mut packer = GzEncoder::new(Counter(0), Compression::default());
    std::io::copy(&mut File::open(file)?, &mut packer)?;
    Ok(packer.finish()?.0)
}

/// Counts what is written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn buildah(scratch: &Path) -> Command {
    let mut command = Command::new("buildah");
    command
        .arg("--root")
        .arg(scratch.join("storage"))
        .arg("--runroot")
        .arg(scratch.join("run"))
        // One small layer: nothing is won by mounting.
        .args(["--storage-driver", "vfs"]);
    command
}

async fn run(family: &Family, name: &str, command: Command, log: &Path) -> Result<()> {
    let process = family.start(name, command, log, false)?;
    let success = loop {
        if let Some(success) = process.success() {
            break success;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure!(success, "{name} failed:\n{}", tail(log));
    Ok(())
}

async fn check_buildah() -> Result<()> {
    let asked = tokio::process::Command::new("buildah")
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    ensure!(
        asked.is_ok_and(|output| output.status.success()),
        "buildah is needed to build the operator's image: apt-get install buildah"
    );
    Ok(())
}

/// The commit, or "unknown" without git.
async fn revision() -> String {
    let asked = tokio::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(cargo::workspace())
        .kill_on_drop(true)
        .output()
        .await;
    match asked {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(file: &str) -> String {
        std::fs::read_to_string(cargo::workspace().join(file)).unwrap()
    }

    /// The default of an argument in the Dockerfile.
    fn argument(name: &str) -> String {
        let file = read("Dockerfile");
        let start = format!("ARG {name}=");
        let mut defaults = file.lines().filter_map(|line| line.strip_prefix(&start));
        let default = defaults.next().unwrap().to_owned();
        assert_eq!(defaults.next(), None, "{name} has one default");
        default
    }

    #[test]
    fn the_image_says_the_version_of_the_program() {
        assert_eq!(argument("VERSION"), env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn the_image_is_compiled_by_the_toolchain_of_the_tests() {
        let channel = format!("channel = \"{}\"", argument("RUST"));
        let file = read("rust-toolchain.toml");
        assert!(file.lines().any(|line| line == channel), "{file}");
    }

    /// cargo refuses a workspace with a member that is not there.
    #[test]
    fn the_manifest_of_each_member_is_sent_to_the_builder() {
        let asked = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(cargo::workspace())
            .output()
            .unwrap();
        assert!(asked.status.success(), "{asked:?}");
        let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
        let members = metadata["packages"].as_array().unwrap();
        assert!(members.len() > 1, "{members:?}");
        let ignored = read(".dockerignore");
        let sent: BTreeSet<&str> = ignored
            .lines()
            .filter_map(|line| line.strip_prefix('!'))
            .collect();
        for member in members {
            let manifest = Path::new(member["manifest_path"].as_str().unwrap());
            let manifest = manifest.strip_prefix(cargo::workspace()).unwrap();
            assert!(
                manifest
                    .ancestors()
                    .any(|part| part.to_str().is_some_and(|part| sent.contains(part))),
                "{} is not among what .dockerignore lets through: {sent:?}",
                manifest.display()
            );
        }
    }
}
