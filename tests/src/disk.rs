//! A small file system of its own: for disks that fill, and that can't be written to.
//!
//! Must not know what is kept on it.

use crate::command::{call, server_directory};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A file system in memory, taken away when this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes one that belongs to the account of the servers, readable by nobody else.
    pub fn mount(path: &Path, size_mb: u64) -> Result<SmallDisk> {
        server_directory(path, 0o700)?;
        let size = format!("size={size_mb}m");
        let text = path.to_string_lossy();
        call("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &text])?;
        let disk = SmallDisk(path.to_owned());
        server_directory(path, 0o700)?;
        Ok(disk)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts it in another way: "ro", "rw".
    pub fn remount(&self, how: &str) -> Result<()> {
        let how = format!("remount,{how}");
        call("mount", &["-o", &how, &self.0.to_string_lossy()]).map(drop)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.0.to_string_lossy();
        // Somebody may still use it; it goes with the last file that is open.
        if let Err(error) = call("umount", &["--lazy", &path]) {
            eprintln!("{path} stays mounted: {error:#}");
        }
    }
}
