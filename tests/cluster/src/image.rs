//! Writing a container image: an OCI image layout of one layer, in a tarball.
//!
//! The same files give the same bytes, whoever owns them and however old they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image says beside its files.
#[derive(Clone, Debug, Default)]
pub struct Image<'a> {
    /// By which it is found, with a tag, as in `mcp.example.com/server:1`.
    pub name: &'a str,
    /// Names by which it is found as well.
    pub also: &'a [&'a str],
    /// The program and its first arguments.
    pub entrypoint: &'a [&'a str],
    /// Further arguments, which a container's `args` replace.
    pub command: &'a [&'a str],
    /// As in `1000` or `1000:1000`; empty for root.
    pub user: &'a str,
    /// The folder to start in; empty for `/`.
    pub folder: &'a str,
    /// Environment variables, each as `NAME=value`.
    pub environment: &'a [&'a str],
    /// Labels.
    pub labels: BTreeMap<&'a str, &'a str>,
}

/// Writes an image whose files are those of the folder `root` to the file `tarball`.
///
/// All belong to root. Folders, files, their permissions and symbolic links are kept.
pub fn write(image: &Image, root: &Path, tarball: &Path) -> Result<()> {
    write_image(image, root, tarball)
        .with_context(|| format!("writing the image {} to {}", image.name, tarball.display()))
}

/// A part of an image, by its digest.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn descriptor(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

fn write_image(image: &Image, root: &Path, tarball: &Path) -> Result<()> {
    let folder = tarball.parent().context("a file has a folder")?;
    // A name of its own until it is whole.
    let output = tempfile::NamedTempFile::new_in(folder)?;
    let (layer, content, difference) = layer(root, folder)?;

    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "User": image.user,
            "WorkingDir": image.folder,
            "Env": image.environment,
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{difference}")]},
    });
    let (config, config_content) = blob(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("config.v1+json"),
        "layers": [layer.descriptor("layer.v1.tar+gzip")],
    });
    let (manifest, manifest_content) = blob(&manifest);
    let named = |name: &str| {
        let mut described = manifest.descriptor("manifest.v1+json");
        described["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit(':').next(),
        });
        described
    };
    let names = std::iter::once(&image.name).chain(image.also);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": names.map(|name| named(name)).collect::<Vec<_>>(),
    });

    let mut archive = Builder::new(BufWriter::new(output.as_file()));
    for (path, content) in [
        (
            "oci-layout".to_owned(),
            json!({"imageLayoutVersion": "1.0.0"})
                .to_string()
                .into_bytes(),
        ),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (config.path(), config_content),
        (manifest.path(), manifest_content),
    ] {
        let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
        archive.append_data(&mut header, path, &*content)?;
    }
    let mut header = header(EntryType::Regular, 0o644, layer.size);
    archive.append_data(&mut header, layer.path(), BufReader::new(content))?;
    archive.into_inner()?.flush()?;
    output.persist(tarball)?;
    Ok(())
}

/// Packs a folder: the blob, its content at the start, and the digest of what was packed.
fn layer(root: &Path, scratch: &Path) -> Result<(Blob, File, String)> {
    let mut packed = tempfile::tempfile_in(scratch)?;
    let inner = Hashing::new(BufWriter::new(packed.try_clone()?));
    let outer = Hashing::new(GzEncoder::new(inner, Compression::default()));
    let mut archive = Builder::new(outer);
    let mut paths = Vec::new();
    list(root, &mut paths).with_context(|| format!("listing {}", root.display()))?;
    for path in &paths {
        append(&mut archive, root, path).with_context(|| format!("packing {}", path.display()))?;
    }
    let (encoder, difference, _) = archive.into_inner()?.end();
    let (mut writer, digest, size) = encoder.finish()?.end();
    writer.flush()?;
    std::io::Seek::rewind(&mut packed)?;
    Ok((Blob { digest, size }, packed, difference))
}

/// Everything below a folder, a folder before what is in it, in order of names.
fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(folder)?.collect();
    let mut entries = entries?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        paths.push(entry.path());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), paths)?;
        }
    }
    Ok(())
}

fn append(archive: &mut Builder<impl Write>, root: &Path, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let name = path.strip_prefix(root)?;
    let found = path.symlink_metadata()?;
    let mode = found.permissions().mode() & 0o7777;
    if found.is_symlink() {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, name, path.read_link()?)?;
    } else if found.is_dir() {
        let mut header = header(EntryType::Directory, mode, 0);
        archive.append_data(&mut header, name, std::io::empty())?;
    } else {
        let mut header = header(EntryType::Regular, mode, found.len());
        let content = BufReader::new(File::open(path)?).take(found.len());
        archive.append_data(&mut header, name, content)?;
    }
    Ok(())
}

/// Without owner and time, which would make equal images differ.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn blob(content: &Value) -> (Blob, Vec<u8>) {
    let content = content.to_string().into_bytes();
    let blob = Blob {
        digest: format!("{:x}", Sha256::digest(&content)),
        size: content.len() as u64,
    };
    (blob, content)
}

/// Go's name for this machine's architecture, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes on, and hashes and counts what was written.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// What was written to, the digest, the size.
    fn end(self) -> (W, String, u64) {
        (self.inner, format!("{:x}", self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const IMAGE: Image = Image {
        name: "mcp.example.com/test:1",
        also: &[],
        entrypoint: &["/bin/run"],
        command: &[],
        user: "1000",
        folder: "",
        environment: &["A=b"],
        labels: BTreeMap::new(),
    };

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        let program = root.path().join("bin/run");
        std::fs::write(&program, "run").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        symlink("run", root.path().join("bin/link")).unwrap();
        root
    }

    /// The files of a tarball by name.
    fn files(tarball: impl Read) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tarball);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn every_part_is_found_by_its_digest() {
        let (root, output) = (root(), tempfile::tempdir().unwrap());
        let tarball = output.path().join("image.tar");
        write(&IMAGE, root.path(), &tarball).unwrap();
        let files = files(File::open(&tarball).unwrap());
        let part = |descriptor: &Value| -> Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap();
            let hex = digest.strip_prefix("sha256:").unwrap();
            let content = files[&format!("blobs/sha256/{hex}")].clone();
            assert_eq!(format!("{:x}", Sha256::digest(&content)), hex);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let index = json(&files["index.json"]);
        let described = &index["manifests"][0];
        assert_eq!(
            described["annotations"]["io.containerd.image.name"],
            "mcp.example.com/test:1"
        );
        let manifest = json(&part(described));
        let config = json(&part(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/run"]));
        assert_eq!(config["config"]["User"], "1000");
        let layer = part(&manifest["layers"][0]);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*layer)
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{:x}", Sha256::digest(&unpacked))
        );
        let mut archive = tar::Archive::new(&*unpacked);
        let told: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let kind = header.entry_type();
                (
                    entry.path().unwrap().display().to_string(),
                    kind,
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("bin".to_owned(), EntryType::Directory, 0o755, 0),
                ("bin/link".to_owned(), EntryType::Symlink, 0o777, 0),
                ("bin/run".to_owned(), EntryType::Regular, 0o755, 0),
            ]
        );
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let output = tempfile::tempdir().unwrap();
        let bytes = ["one", "two"].map(|name| {
            let tarball = output.path().join(name);
            write(&IMAGE, root().path(), &tarball).unwrap();
            std::fs::read(tarball).unwrap()
        });
        assert!(bytes[0] == bytes[1]);
        // And nothing else is in the folder.
        assert_eq!(std::fs::read_dir(output.path()).unwrap().count(), 2);
    }
}
