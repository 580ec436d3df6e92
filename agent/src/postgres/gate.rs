//! Writes the gate into pg_hba.conf and the members into pg_ident.conf.
//!
//! Changes files only: the caller lets PostgreSQL check them (`pg_hba_file_rules`), reloads, and
//! ends the sessions that are no longer admitted.

use super::block::{self, BlockError};
use super::conf::{ConfError, Files};
use super::hba::{self, Gate, HbaError, Who};
use super::ident;
use super::owner::{Owner, OwnerError};
use crate::config::{PostgresSettings, Settings};
use crate::durable::{self, DurableError};
use pgaa_core::ids::NodeId;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The mode of a file that wasn't there: Debian's for these files.
const MODE: u32 = 0o640;

/// The gate can't be set.
#[derive(Debug, Error)]
pub enum GateError {
    /// We can't act for the owner of the files.
    #[error("PostgreSQL's files can't be used")]
    Owner(#[from] OwnerError),
    /// Where the files lie can't be found out.
    #[error("PostgreSQL's configuration can't be read")]
    Conf(#[from] ConfError),
    /// The file can't be read or written.
    #[error("the gate can't be set")]
    File(#[from] DurableError),
    /// There is no pg_hba.conf.
    #[error("{} is missing: PostgreSQL can't start without it", .0.display())]
    Missing(PathBuf),
    /// Nothing was written, because the file can't be understood or a name can't be spelled.
    #[error("{} is left as it is", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: HbaError,
    },
}

/// Which files were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// pg_hba.conf
    pub hba: bool,
    /// pg_ident.conf
    pub ident: bool,
}

impl Changed {
    /// Has PostgreSQL to reload?
    #[must_use]
    pub fn any(self) -> bool {
        self.hba || self.ident
    }
}

/// The two files of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFiles {
    /// pg_hba.conf
    pub hba: PathBuf,
    /// pg_ident.conf
    pub ident: PathBuf,
}

impl AccessFiles {
    /// Finds them; an operator may have moved them (`hba_file`, `ident_file`).
    pub fn of(postgres: &PostgresSettings) -> Result<AccessFiles, ConfError> {
        let files = Files::read(&postgres.config_dir, &postgres.data_dir)?;
        let set = files.foreign(Path::new(""));
        let path = |setting: &str, name: &str| match set.get(setting) {
            Some(assigned) => postgres.data_dir.join(&assigned.value),
            None => postgres.config_dir.join(name),
        };
        Ok(AccessFiles {
            hba: path("hba_file", "pg_hba.conf"),
            ident: path("ident_file", "pg_ident.conf"),
        })
    }
}

/// What the two files say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The gate; `None` when our block was never written.
    pub gate: Option<Gate>,
    /// Who is let in by certificate.
    pub members: BTreeSet<NodeId>,
}

/// Reads what the two files say.
pub fn access(settings: &Settings) -> Result<Access, GateError> {
    let owner = Owner::of(&settings.postgres.data_dir)?;
    owner.act(|| read_access(&AccessFiles::of(&settings.postgres)?))?
}

/// Reads what these two files say. Call it as their owner.
pub(super) fn read_access(files: &AccessFiles) -> Result<Access, GateError> {
    let gate = hba::gate_of(&read(&files.hba)?).map_err(damaged(&files.hba))?;
    let members = ident::members_of(&read(&files.ident)?).map_err(damaged(&files.ident))?;
    Ok(Access { gate, members })
}

/// Sets the gate and leaves the members as they are.
pub fn set_gate(settings: &Settings, gate: Gate) -> Result<Changed, GateError> {
    let members = access(settings)?.members;
    set_access(settings, gate, &members)
}

/// Lets exactly `members` in by certificate and leaves the gate as it is; a server without our
/// block has an open one.
pub fn admit(settings: &Settings, members: &BTreeSet<NodeId>) -> Result<Changed, GateError> {
    let gate = access(settings)?.gate.unwrap_or(Gate::Open);
    set_access(settings, gate, members)
}

/// Sets both. Writes nothing that is there already, and neither file when one of them can't be
/// written.
pub(super) fn set_access(
    settings: &Settings,
    gate: Gate,
    members: &BTreeSet<NodeId>,
) -> Result<Changed, GateError> {
    let owner = Owner::of(&settings.postgres.data_dir)?;
    let os_user = owner.name.clone();
    owner.act(|| set_files(settings, gate, members, &os_user))?
}

fn set_files(
    settings: &Settings,
    gate: Gate,
    members: &BTreeSet<NodeId>,
    os_user: &str,
) -> Result<Changed, GateError> {
    let postgres = &settings.postgres;
    let who = Who {
        database: &settings.policy.database,
        mesh_role: &postgres.mesh_role,
        superuser: &postgres.superuser,
    };
    let files = AccessFiles::of(postgres)?;
    if !files.hba.exists() {
        return Err(GateError::Missing(files.hba));
    }
    let hba_before = read(&files.hba)?;
    let ident_before = read(&files.ident)?;
    // root may become anybody anyway, and an agent may run as root in a demonstration.
    let os_users = BTreeSet::from([os_user.to_owned(), "root".to_owned()]);
    let ident_after = ident::ident_lines(members, &os_users, who)
        .and_then(|lines| Ok(block::splice(&ident_before, &lines)?))
        .map_err(refused(&files.ident))?;
    let hba_after = with_gate(&hba_before, gate, who, os_user).map_err(refused(&files.hba))?;
    // The maps first: pg_hba.conf names them.
    Ok(Changed {
        ident: replace(&files.ident, &ident_before, &ident_after)?,
        hba: replace(&files.hba, &hba_before, &hba_after)?,
    })
}

fn with_gate(
    existing: &[u8],
    gate: Gate,
    who: Who<'_>,
    os_user: &str,
) -> Result<Vec<u8>, HbaError> {
    let admitted = hba::admits_locally(&block::remove(existing)?, who, os_user);
    let lines = hba::gate_lines(gate, who, !admitted)?;
    Ok(block::splice(existing, &lines)?)
}

fn refused(path: &Path) -> impl FnOnce(HbaError) -> GateError {
    let path = path.to_owned();
    move |source| GateError::Refused { path, source }
}

fn damaged(path: &Path) -> impl FnOnce(BlockError) -> GateError {
    let refuse = refused(path);
    move |source| refuse(HbaError::Block(source))
}

fn read(path: &Path) -> Result<Vec<u8>, DurableError> {
    Ok(durable::read(path)?.unwrap_or_default())
}

/// Writes `after` where it differs from `before`, keeping the file's mode, and a symbolic link
/// where the operator put one. Call it as the owner of the file.
pub(super) fn replace(path: &Path, before: &[u8], after: &[u8]) -> Result<bool, DurableError> {
    if before == after {
        return Ok(false);
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&target).map_or(MODE, |metadata| metadata.permissions().mode() & 0o777);
    durable::write(&target, after, mode)?;
    Ok(true)
}
