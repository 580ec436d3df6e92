//! What pg_hba.conf and pg_ident.conf say, for each look; read again when they look changed.
//!
//! Changes nothing. To find the files all of PostgreSQL's configuration has to be read, and the
//! owner of the cluster looked up: too much for every second.

use super::gate::{self, Access, AccessFiles, GateError};
use super::hba::Gate;
use super::owner::Owner;
use crate::config::Settings;
use pgaa_core::observed::PostgresFacts;
use pgaa_core::time::Mono;
use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// After this time the files are read again even if they look the same: an operator may have
/// named others, or have written twice between two ticks of the file system's clock.
const REREAD: Duration = Duration::from_secs(10);

/// Remembers what the files said.
#[derive(Debug, Default)]
pub struct Inspector {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    files: AccessFiles,
    stamps: [Option<Stamp>; 2],
    at: Mono,
    access: Access,
}

/// What changes when a file is replaced or written to: device, inode, size, and the time of the
/// last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// `None` where nothing can be told; then nothing counts as unchanged.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

fn stamps(files: &AccessFiles) -> [Option<Stamp>; 2] {
    [stamp(&files.hba), stamp(&files.ident)]
}

impl Inspector {
    /// Puts what the two files say among the observed facts.
    pub fn inspect(&mut self, settings: &Settings, now: Mono, facts: &mut PostgresFacts) {
        match self.access(settings, now) {
            Ok(access) => {
                facts.gate_open = access.gate != Some(Gate::Shut);
                facts.admitted.clone_from(&access.members);
            }
            Err(error) => facts.hba_errors.push(chain(&error)),
        }
    }

    fn access(&mut self, settings: &Settings, now: Mono) -> Result<&Access, GateError> {
        let known = self.seen.take().filter(|seen| {
            let stamps = stamps(&seen.files);
            stamps.iter().all(Option::is_some)
                && stamps == seen.stamps
                && now.since(seen.at) < REREAD
        });
        let seen = match known {
            Some(seen) => seen,
            None => read(settings, now)?,
        };
        Ok(&self.seen.insert(seen).access)
    }
}

/// Finds the files and reads them. The stamps are taken first: a file that changes meanwhile is
/// read again by the next look.
fn read(settings: &Settings, now: Mono) -> Result<Seen, GateError> {
    let postgres = &settings.postgres;
    Owner::of(&postgres.data_dir)?.act(|| {
        let files = AccessFiles::of(postgres)?;
        Ok(Seen {
            stamps: stamps(&files),
            at: now,
            access: gate::read_access(&files)?,
            files,
        })
    })?
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, Surroundings, load};
    use crate::postgres::block;
    use crate::postgres::hba::{Who, gate_lines};
    use nix::unistd::{User, chown, geteuid};

    const WHO: Who<'_> = Who {
        database: "shop",
        mesh_role: "pgaa_mesh",
        superuser: "postgres",
    };

    /// PostgreSQL never runs as root: there the files are somebody else's.
    fn give_away(path: &Path) {
        if geteuid().is_root() {
            let nobody = User::from_name("nobody").unwrap().unwrap();
            chown(path, Some(nobody.uid), Some(nobody.gid)).unwrap();
        }
    }

    fn write_hba(directory: &Path, gate: Gate) {
        let lines = gate_lines(gate, WHO, false).unwrap();
        let path = directory.join("pg_hba.conf");
        fs::write(&path, block::splice(b"", &lines).unwrap()).unwrap();
        give_away(&path);
    }

    fn settings(directory: &Path) -> Settings {
        let file = directory.join("agent.toml");
        let text = format!(
            "[cluster]\nname = 'shop'\nexpect = 1\nseeds = ['10.0.0.1']\n\
             [postgres]\ndatabase = 'shop'\ndata_dir = '{0}'\n",
            directory.display()
        );
        fs::write(&file, text).unwrap();
        let surroundings = Surroundings {
            root: directory.to_owned(),
            host_name: "n1".to_owned(),
            credentials_dir: None,
        };
        load(&Sources::single(&file), &surroundings)
            .unwrap()
            .settings
    }

    #[test]
    fn a_file_that_was_written_to_is_read_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        give_away(directory.path());
        let settings = settings(directory.path());
        let ident = directory.path().join("pg_ident.conf");
        fs::write(&ident, "").unwrap();
        give_away(&ident);
        let mut inspector = Inspector::default();
        let mut is_open = || {
            let mut facts = PostgresFacts::default();
            inspector.inspect(&settings, Mono(0), &mut facts);
            assert_eq!(facts.hba_errors, Vec::<String>::new());
            facts.gate_open
        };
        for gate in [Gate::Shut, Gate::Open, Gate::Shut] {
            write_hba(directory.path(), gate);
            for _ in 0..2 {
                assert_eq!(is_open(), gate == Gate::Open);
            }
        }
    }
}
