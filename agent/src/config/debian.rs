//! Finds the local PostgreSQL cluster when the configuration doesn't name it, by Debian's layout:
//! `/etc/postgresql/VERSION/NAME`, `/var/lib/postgresql/VERSION/NAME`, `/usr/lib/postgresql/VERSION`.
//!
//! Reads directories and two settings; it never changes anything and never asks a server.

use std::fs;
use std::path::{Path, PathBuf};

/// The version that a machine without any PostgreSQL is assumed to get: Debian 12's.
const VERSION_ASSUMED: &str = "15";

/// One cluster in Debian's sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianCluster {
    /// Major version, "15".
    pub version: String,
    /// Where its postgresql.conf lies.
    pub config_dir: PathBuf,
    /// Its `data_directory`.
    pub data_dir: PathBuf,
    /// Its `port`, where the file sets one.
    pub port: Option<u16>,
}

/// All clusters below `root`, by version and name.
#[must_use]
pub fn clusters(root: &Path) -> Vec<DebianCluster> {
    let mut found = Vec::new();
    for version_dir in subdirectories(&root.join("etc/postgresql")) {
        let Some(version) = name_of(&version_dir) else {
            continue;
        };
        for config_dir in subdirectories(&version_dir) {
            let Some(name) = name_of(&config_dir) else {
                continue;
            };
            let Ok(text) = fs::read_to_string(config_dir.join("postgresql.conf")) else {
                continue;
            };
            let data_dir = setting(&text, "data_directory").map_or_else(
                || root.join("var/lib/postgresql").join(&version).join(&name),
                PathBuf::from,
            );
            let port = setting(&text, "port").and_then(|text| text.parse().ok());
            found.push(DebianCluster {
                version: version.clone(),
                config_dir,
                data_dir,
                port,
            });
        }
    }
    found
}

/// The newest major version whose server is installed below `root`.
#[must_use]
pub fn newest_installed(root: &Path) -> String {
    let installed = subdirectories(&root.join("usr/lib/postgresql"));
    let versions = installed
        .iter()
        .filter(|path| path.join("bin/initdb").exists());
    let numbers = versions.filter_map(|path| name_of(path)?.parse::<u32>().ok());
    numbers
        .max()
        .map_or_else(|| VERSION_ASSUMED.to_owned(), |number| number.to_string())
}

/// Where one cluster lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// `postgres.data_dir`
    pub data_dir: PathBuf,
    /// `postgres.config_dir`
    pub config_dir: PathBuf,
    /// `postgres.bin_dir`
    pub bin_dir: PathBuf,
    /// `postgres.port`
    pub port: u16,
}

/// Where a cluster lies, of which perhaps a part is known: what was configured counts, then what
/// was found, then where Debian would put it.
#[must_use]
pub fn locate(
    root: &Path,
    cluster: Option<&DebianCluster>,
    data_dir: Option<PathBuf>,
    config_dir: Option<PathBuf>,
) -> Located {
    let newest = || newest_installed(root);
    let version = match (cluster, &data_dir) {
        (Some(cluster), _) => cluster.version.clone(),
        (None, Some(data_dir)) => fs::read_to_string(data_dir.join("PG_VERSION"))
            .map_or_else(|_| newest(), |text| text.trim().to_owned()),
        (None, None) => newest(),
    };
    let debian_data = root.join("var/lib/postgresql").join(&version).join("main");
    let debian_config = root.join("etc/postgresql").join(&version).join("main");
    let data_dir = data_dir
        .or_else(|| cluster.map(|cluster| cluster.data_dir.clone()))
        .unwrap_or_else(|| debian_data.clone());
    let beside = if data_dir == debian_data {
        debian_config
    } else {
        data_dir.clone()
    };
    Located {
        config_dir: config_dir
            .or_else(|| cluster.map(|cluster| cluster.config_dir.clone()))
            .unwrap_or(beside),
        data_dir,
        bin_dir: root.join("usr/lib/postgresql").join(&version).join("bin"),
        port: cluster.and_then(|cluster| cluster.port).unwrap_or(5432),
    }
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
}

/// The last value a postgresql.conf gives to `name`, without quotes and comment.
fn setting(text: &str, name: &str) -> Option<String> {
    let value = |line: &str| {
        let rest = line.trim_start().strip_prefix(name)?;
        let rest = rest.strip_prefix(|c: char| c == '=' || c.is_ascii_whitespace())?;
        let rest = rest.trim_start_matches(|c: char| c == '=' || c.is_ascii_whitespace());
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next()?,
            None => rest
                .split(|c: char| c == '#' || c.is_ascii_whitespace())
                .next()?,
        };
        (!value.is_empty()).then(|| value.to_owned())
    };
    text.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_postgresql_reads_them() {
        let text = "#port = 1\nport = 5433\t# (change requires restart)\ndata_directory='/srv/pg'\n\
                    portly = 3\n";
        assert_eq!(setting(text, "port").as_deref(), Some("5433"));
        assert_eq!(setting(text, "data_directory").as_deref(), Some("/srv/pg"));
        assert_eq!(setting(text, "nothing"), None);
    }

    #[test]
    fn a_machine_without_clusters_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(clusters(root.path()), []);
        assert_eq!(newest_installed(root.path()), VERSION_ASSUMED);
    }
}
