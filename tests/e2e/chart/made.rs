//! Files that are made of others: each is what it would be if it were made now.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use cluster::{cargo::workspace, manifest, tools};
use serde_json::Value;

use super::{chart, read};

const CHANGELOG: &str = include_str!("../../../CHANGELOG.md");

/// Fails with how to make it anew.
fn is_made(file: &str, expected: &str, by: &str) -> Result<()> {
    let path = workspace().join(file);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected);
    ensure!(
        found == expected,
        "{file} is out of date (line {:?}); run: {by} > {file}",
        differs.map(|line| line + 1)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_yaml_is_the_charts() -> Result<()> {
    let expected = manifest::render().await?;
    let by = "cargo run -q -p cluster -- install-manifest";
    is_made("dist/install.yaml", &expected, by)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_readme_has_all_values() -> Result<()> {
    let expected = manifest::chart_readme().await?;
    let by = "cargo run -q -p cluster -- chart-readme";
    is_made("charts/mcp-operator/README.md", &expected, by)
}

/// The first entry's heading: a version, and in parentheses when.
fn newest() -> Result<(&'static str, &'static str)> {
    let heading = CHANGELOG.lines().find_map(|line| line.strip_prefix("## "));
    let (version, when) = heading
        .context("no entry")?
        .split_once(" (")
        .context("no time")?;
    Ok((version, when.trim_end_matches(')')))
}

#[test]
fn changelog_program_and_chart_tell_one_version() -> Result<()> {
    let metadata: Value = serde_saphyr::from_str(&read(&chart().join("Chart.yaml")))?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(newest()?.0, version);
    assert_eq!(metadata["version"], version);
    assert_eq!(metadata["appVersion"], version);
    let images = metadata["annotations"]["artifacthub.io/images"].as_str();
    let images: Value = serde_saphyr::from_str(images.context("no images")?)?;
    let image = images[0]["image"].as_str().context("no image")?;
    assert_eq!(image, cluster::operator_image::NAME);
    let changes = metadata["annotations"]["artifacthub.io/changes"].as_str();
    let changes: Vec<Value> = serde_saphyr::from_str(changes.context("no changes")?)?;
    assert!(!changes.is_empty());
    for change in &changes {
        let text = change["description"].as_str().context("no description")?;
        assert!(
            CHANGELOG.contains(text),
            "CHANGELOG.md does not say: {text}"
        );
    }
    Ok(())
}

#[test]
fn the_charts_examples_are_valid() -> Result<()> {
    let metadata: Value = serde_saphyr::from_str(&read(&chart().join("Chart.yaml")))?;
    let examples = metadata["annotations"]["artifacthub.io/crdsExamples"].as_str();
    let examples: Vec<Value> = serde_saphyr::from_str(examples.context("no examples")?)?;
    assert!(!examples.is_empty());
    for example in examples {
        let (lines, code) = mcp_operator::offline::check("example", &example.to_string());
        assert_eq!((lines, code), (Vec::new(), 0), "{example}");
    }
    Ok(())
}

/// What the release workflow runs first. It refuses a tag that is not what everything else says.
#[test]
fn a_release_is_refused_unless_all_tell_its_version() -> Result<()> {
    let (version, when) = newest()?;
    let notes = |tag: &str| -> Result<(bool, String)> {
        let mut command = Command::new("bash");
        let output = command
            .arg(workspace().join(".ci/release-notes"))
            .arg(tag)
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(said)?))
    };
    let (taken, said) = notes("v9.9.9")?;
    assert!(!taken && said.contains("the tag is v9.9.9"), "{said}");
    let (taken, said) = notes(version)?;
    assert!(!taken && said.contains("is not vX.Y.Z"), "{said}");
    let (taken, said) = notes(&format!("v{version}"))?;
    let has_date = when.starts_with("20");
    assert_eq!(taken, has_date, "{said}");
    if has_date {
        assert!(said.contains("### "), "{said}");
    } else {
        assert!(said.contains("YYYY-MM-DD"), "{said}");
    }
    Ok(())
}

/// What the release workflow runs last: chart and install.yaml have the image by its digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_released_names_the_image_by_its_digest() -> Result<()> {
    let helm = tools::build(&tools::HELM).await?;
    let folder = tempfile::tempdir()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let digest = format!("sha256:{}", "5".repeat(64));
    let output = Command::new("bash")
        .arg(workspace().join(".ci/package"))
        .args(["registry.example.com/released/mcp-operator", &digest])
        .arg(folder.path())
        .env("PATH", format!("{}:{path}", helm.display()))
        .env("HELM_CACHE_HOME", folder.path().join("cache"))
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let image = format!("image: registry.example.com/released/mcp-operator@{digest}\n");
    let manifest = std::fs::read_to_string(folder.path().join("install.yaml"))?;
    assert!(manifest.contains(&image), "{manifest}");
    let version = env!("CARGO_PKG_VERSION");
    let packed = folder.path().join(format!("mcp-operator-{version}.tgz"));
    let rendered = Command::new(helm.join("helm"))
        .args(["template", "a"])
        .arg(&packed)
        .output()?;
    let rendered = String::from_utf8(rendered.stdout)?;
    assert!(rendered.contains(&image), "{rendered}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actionlint_finds_no_fault_in_the_workflows() -> Result<()> {
    let program = tools::build(&tools::LINTS).await?.join("actionlint");
    let output = Command::new(program).current_dir(workspace()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    // Whoever moves a tag of an action would run in our workflows.
    let workflows = std::fs::read_dir(workspace().join(".github/workflows"))?;
    for workflow in workflows {
        let path = workflow?.path();
        let text = read(&path);
        let uses = text.lines().filter_map(|line| line.split_once("uses: "));
        for (_, action) in uses {
            let (_, by) = action.split_once('@').context("no version")?;
            let sha = by.split(' ').next().unwrap_or_default();
            let is_sha = sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure!(is_sha, "{}: {action} is not pinned by SHA", path.display());
        }
    }
    Ok(())
}
