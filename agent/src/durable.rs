//! Files that must survive a crash: written whole or not at all.
//!
//! Knows nothing of what is in them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A durable file could not be read or written.
#[derive(Debug, Error)]
pub enum DurableError {
    /// The file system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is there and makes no sense.
    #[error(
        "{} is damaged; restore it from a backup, or move it away if this node may be made anew",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DurableError {
    let path = path.to_owned();
    move |source| DurableError::Io { verb, path, source }
}

/// Writes `bytes` to `path` with `mode`: a temporary file beside it, fsync, rename, fsync of the
/// directory. After a crash the file holds either the old bytes or the new; after a failure, as on
/// a full disk, the old.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    if let Err(error) = fill(&temporary, bytes, mode) {
        // What is half written would hold on to the space that is missing.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    sync_directory(path)
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

/// Makes a name in the directory of `path` last.
fn sync_directory(path: &Path) -> Result<(), DurableError> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        Some(_) | None => Path::new("."),
    };
    let handle = File::open(directory).map_err(failed("open", directory))?;
    handle.sync_all().map_err(failed("sync", directory))
}

/// Reads a file; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DurableError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Removes a file, durably; it is no error when there is none.
pub fn remove(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("remove", path)(error)),
    }
    sync_directory(path)
}

/// Makes a directory and its parents with `mode`, if they aren't there.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), DurableError> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed("create", path))
}

/// Writes a value as JSON, mode 0600.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DurableError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|source| DurableError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    write(path, &bytes, 0o600)
}

/// Reads a JSON file; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| DurableError::Damaged {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &7_u32).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(7));
        write(&path, b"{", 0o600).unwrap();
        let error = read_json::<u32>(&path).unwrap_err();
        assert!(error.to_string().contains("x.json is damaged"), "{error}");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }
}
