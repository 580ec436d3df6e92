//! The file system all machines of a run are booted from: the baked image, and above it a layer
//! with our package installed, as an operator's image has it.
//!
//! Must not know any machine.

use crate::seconds;
use anyhow::{Context, Result, ensure};
use pgaa_tests::cluster::built_agent;
use pgaa_tests::command::{clean, run};
use std::fs;
use std::path::{Path, PathBuf};

/// Layers for overlayfs, the upper ones first.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<PathBuf>,
}

/// Something of the checkout.
pub fn in_checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Packs the agent that was built last.
pub fn package(directory: &Path, version: &str) -> Result<PathBuf> {
    let mut build = clean(in_checkout("packaging/deb/build"));
    build.args(["--quick", "--version", version, "--binary"]);
    build
        .arg(built_agent()?)
        .arg("--output")
        .arg(directory.join("package"));
    Ok(PathBuf::from(run(&mut build)?))
}

/// A directory with packages for each minor version of PostgreSQL that can be had, the oldest
/// first.
pub fn postgres_minors() -> Result<Vec<PathBuf>> {
    let path = run(&mut clean(in_checkout(".ci/postgres-minors")))?;
    let path = path.lines().last().unwrap_or_default();
    let entries = fs::read_dir(path).with_context(|| path.to_owned())?;
    let mut minors: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    minors.sort();
    Ok(minors)
}

impl Image {
    /// The baked image, without anything of ours.
    pub fn bare() -> Result<Image> {
        let path = run(&mut clean(in_checkout(".ci/boot-image")))?;
        let path = PathBuf::from(path.lines().last().unwrap_or_default());
        ensure!(path.is_dir(), "{} is no image", path.display());
        Ok(Image { layers: vec![path] })
    }

    /// The same with a package installed, in a layer below `directory`.
    pub fn with_package(&self, package: &Path, directory: &Path) -> Result<Image> {
        let layer = directory.join("layer");
        let (root, work) = (directory.join("layer-root"), directory.join("layer-work"));
        for path in [&layer, &root, &work] {
            fs::create_dir_all(path)?;
        }
        let script = "mount -t overlay overlay -o \"$1\" \"$2\"\nmount -t proc proc \"$2/proc\"\n\
                      cp \"$3\" \"$2/package.deb\"\nchroot \"$2\" dpkg --install /package.deb\n\
                      rm \"$2/package.deb\"";
        let mut install = clean("timeout");
        install.arg(seconds(120).as_secs().to_string());
        install.args(["unshare", "--mount", "--propagation", "private"]);
        install
            .args(["sh", "-euc", script, "install"])
            .arg(self.overlay(&layer, &work))
            .arg(&root)
            .arg(package);
        run(&mut install).context("the package can't be installed in the image")?;
        let layers = std::iter::once(layer).chain(self.layers.iter().cloned());
        Ok(Image {
            layers: layers.collect(),
        })
    }

    /// The options of a mount that reads the image and writes to `upper`.
    pub fn overlay(&self, upper: &Path, work: &Path) -> String {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| layer.display().to_string())
            .collect();
        format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            upper.display(),
            work.display()
        )
    }
}
