//! A Secret as files, the way a kubelet mounts it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Result;
use certs::authority::{Leaf, to_pem};

/// A folder as the kubelet mounts a Secret.
pub struct Mount {
    folder: PathBuf,
    generation: u32,
}

impl Mount {
    pub fn new(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir(&folder)?;
        Ok(Self {
            folder,
            generation: 0,
        })
    }

    /// A new folder beside, then `..data` points there by a rename; the old one goes.
    pub fn swap(&mut self, files: &[(&str, &str)]) -> Result<()> {
        self.generation += 1;
        let name = format!("..2026_01_01_00_00_00.{}", self.generation);
        let target = self.folder.join(&name);
        std::fs::create_dir(&target)?;
        for (file, content) in files {
            std::fs::write(target.join(file), content)?;
        }
        let data = self.folder.join("..data");
        let old = std::fs::read_link(&data).ok();
        let new = self.folder.join("..data_tmp");
        symlink(&name, &new)?;
        std::fs::rename(&new, &data)?;
        for (file, _) in files {
            let link = self.folder.join(file);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(file), link)?;
            }
        }
        if let Some(old) = old {
            std::fs::remove_dir_all(self.folder.join(old))?;
        }
        Ok(())
    }

    /// A pair, as a Secret of type `kubernetes.io/tls` holds it.
    pub fn put(&mut self, leaf: &Leaf) -> Result<()> {
        let (certificate, key) = pair(leaf);
        self.swap(&[("tls.crt", &certificate), ("tls.key", &key)])
    }
}

/// A certificate and its key, PEM.
pub fn pair(leaf: &Leaf) -> (String, String) {
    (
        to_pem("CERTIFICATE", &leaf.certificate),
        to_pem("PRIVATE KEY", &leaf.key),
    )
}
