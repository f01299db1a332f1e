//! Building what the demo runs, and the folder that it is in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::demo::screen::note;
use crate::mcp_test::{self, McpTest};
use crate::operator_image::{self, OperatorImage};
use crate::process::Family;
use crate::{server_everything, tools};

/// What the image may have at most, unpacked; a registry keeps a third of that.
const MOST: u64 = 25_000_000;

/// Images, and the client.
pub(super) struct Built {
    pub(super) operator: OperatorImage,
    pub(super) test: McpTest,
    /// Tarball of the third-party server.
    pub(super) everything: PathBuf,
    /// Removes the folder of the first two, however this process ends.
    _family: Family,
}

impl Built {
    /// A sentence about the operator's image.
    pub(super) fn told(&self) -> String {
        let OperatorImage { size, packed, .. } = self.operator;
        let list = if self.operator.auditable {
            "with the list of what it was built from"
        } else {
            "without the list of what it was built from, as cargo-auditable is not installed"
        };
        format!(
            "the operator's is {}, packed {}, {list}",
            megabytes(size),
            megabytes(packed)
        )
    }

    /// The images by name, and where they are.
    pub(super) fn images(&self) -> [(&'static str, &Path); 3] {
        [
            (operator_image::NAME, &self.operator.tarball),
            (mcp_test::NAME, &self.test.tarball),
            (server_everything::NAME, &self.everything),
        ]
    }
}

/// Builds everything at the same time that does not wait for another's lock anyway.
pub(super) async fn everything() -> Result<Built> {
    let folder = tempfile::Builder::new()
        .prefix("mcp-images-")
        .tempdir()
        .context("creating a folder for images")?
        .keep();
    let family = Family::new(&folder)?;
    let programs = async {
        let operator = operator_image::build(&folder).await?;
        anyhow::Ok((operator, mcp_test::image(&folder).await?))
    };
    let tools = async {
        tools::control_plane().await?;
        tools::node().await?;
        tools::build(&tools::HELM).await
    };
    let ((operator, test), _, everything) =
        tokio::try_join!(programs, tools, server_everything::image())?;
    ensure!(
        operator.size < MOST,
        "the operator's image should have less than {}; it has {}",
        megabytes(MOST),
        megabytes(operator.size)
    );
    let built = Built {
        operator,
        test,
        everything,
        _family: family,
    };
    for (name, tarball) in built.images() {
        let size = std::fs::metadata(tarball)
            .with_context(|| format!("looking at {}", tarball.display()))?
            .len();
        note(format!("{name}  (tarball of {})", megabytes(size)));
    }
    note(format!(
        "{}; made by buildah from the last stage of the Dockerfile",
        built.told()
    ));
    Ok(built)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
