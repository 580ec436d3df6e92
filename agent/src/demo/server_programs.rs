//! Finds PostgreSQL's programs and pglogical on this machine.
//!
//! Only looks; the demo can't work without both and says which package is missing.

use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian keeps the programs: `<version>/bin`.
const DEBIAN: &str = "/usr/lib/postgresql";
/// The version that the message names when there is none.
const VERSION: &str = "15";

/// Where the programs of the newest server lie that has pglogical.
pub fn find() -> Result<PathBuf> {
    match choose(&installed(Path::new(DEBIAN))) {
        Ok(bin_dir) => Ok(bin_dir),
        Err(missing) => match beyond_debian() {
            Some(bin_dir) => Ok(bin_dir),
            None => bail!("{missing}"),
        },
    }
}

/// One installed server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    version: u32,
    bin_dir: PathBuf,
    has_pglogical: bool,
}

fn installed(root: &Path) -> Vec<Installed> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let servers = entries.filter_map(|entry| {
        let version = entry.file_name().to_str()?.parse().ok()?;
        let bin_dir = entry.path().join("bin");
        let has_pglogical = entry.path().join("lib/pglogical.so").exists();
        let complete = ["initdb", "pg_ctl", "postgres", "psql"];
        let usable = complete
            .iter()
            .all(|program| bin_dir.join(program).exists());
        usable.then_some(Installed {
            version,
            bin_dir,
            has_pglogical,
        })
    });
    servers.collect()
}

fn choose(servers: &[Installed]) -> Result<PathBuf, String> {
    let newest = |wanted: &dyn Fn(&&Installed) -> bool| {
        servers
            .iter()
            .filter(wanted)
            .max_by_key(|server| server.version)
    };
    if let Some(server) = newest(&|server| server.has_pglogical) {
        return Ok(server.bin_dir.clone());
    }
    match newest(&|_| true) {
        Some(Installed { version, .. }) => Err(format!(
            "pglogical is not installed for PostgreSQL {version}: \
             apt-get install postgresql-{version}-pglogical"
        )),
        None => Err(format!(
            "PostgreSQL is not installed below {DEBIAN}: \
             apt-get install postgresql-{VERSION} postgresql-{VERSION}-pglogical"
        )),
    }
}

/// A server of another distribution, as `pg_config` in the search path tells.
fn beyond_debian() -> Option<PathBuf> {
    let ask = |question: &str| {
        let output = Command::new("pg_config").arg(question).output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    let (bin_dir, libraries) = (ask("--bindir")?, ask("--pkglibdir")?);
    let usable = bin_dir.join("initdb").exists() && libraries.join("pglogical.so").exists();
    usable.then_some(bin_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: u32, has_pglogical: bool) -> Installed {
        Installed {
            version,
            bin_dir: format!("/{version}/bin").into(),
            has_pglogical,
        }
    }

    #[test]
    fn the_newest_with_pglogical_is_taken_and_a_missing_package_named() {
        let servers = [server(15, true), server(9, true), server(17, false)];
        assert_eq!(choose(&servers), Ok("/15/bin".into()));
        let missing = choose(&servers[2..]).unwrap_err();
        assert!(
            missing.ends_with("apt-get install postgresql-17-pglogical"),
            "{missing}"
        );
        let missing = choose(&[]).unwrap_err();
        assert!(
            missing.ends_with("postgresql-15 postgresql-15-pglogical"),
            "{missing}"
        );
    }

    #[test]
    fn only_complete_servers_are_seen() {
        let root = tempfile::tempdir().unwrap();
        for version in ["15", "16", "x"] {
            fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        for program in ["initdb", "pg_ctl", "postgres", "psql"] {
            fs::write(root.path().join("15/bin").join(program), "").unwrap();
        }
        let found = installed(root.path());
        assert_eq!(found.len(), 1);
        assert!(found[0].version == 15 && !found[0].has_pglogical);
    }
}
