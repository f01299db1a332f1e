//! The image of the workspace's own MCP server and client.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cargo::{self, Kind};
use crate::image::{self, Image};

/// The image's name. It has the programs `/mcp-server`, which it runs, and `/mcp-client`.
pub const NAME: &str = concat!("mcp.example.com/mcp-test:", env!("CARGO_PKG_VERSION"));

const PACKAGE: &str = "mcp-test";
const SERVER: &str = "mcp-server";
const CLIENT: &str = "mcp-client";

/// What was built.
#[derive(Debug)]
pub struct McpTest {
    /// The image.
    pub tarball: PathBuf,
    /// The client, as a program of this machine.
    pub client: PathBuf,
}

/// Builds the programs and packs them. The tarball is in `folder`.
pub async fn image(folder: &Path) -> Result<McpTest> {
    let programs = cargo::build(PACKAGE, Kind::Static).await?;
    let find = |name: &str| {
        let found = programs.iter().find(|program| program.ends_with(name));
        found.with_context(|| format!("{PACKAGE} has no program {name}"))
    };
    let root = folder.join(PACKAGE);
    std::fs::create_dir(&root).with_context(|| format!("creating {}", root.display()))?;
    for name in [SERVER, CLIENT] {
        let program = find(name)?;
        std::fs::copy(program, root.join(name))
            .with_context(|| format!("copying {}", program.display()))?;
    }
    let client = find(CLIENT)?.clone();
    let tarball = folder.join("mcp-test.tar");
    let written = tarball.clone();
    let packing = move || {
        let image = Image {
            name: NAME,
            entrypoint: &["/mcp-server"],
            user: "1000:1000",
            labels: [("org.opencontainers.image.title", PACKAGE)].into(),
            ..Image::default()
        };
        image::write(&image, &root, &written)
    };
    tokio::task::spawn_blocking(packing)
        .await
        .context("packing")??;
    Ok(McpTest { tarball, client })
}
