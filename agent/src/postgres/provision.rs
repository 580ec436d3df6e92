//! Makes the local PostgreSQL ready for the mesh: before its first start, so that none has to
//! follow. Doing it again changes nothing.
//!
//! Before the agent's own first start it also mints the node's identity and certificate, because
//! the server is configured to use them. Works on files only and never starts, stops or asks a server. Roles, the database and the
//! extension are made later, over SQL.

use super::conf::{self, ConfError, Files};
use super::gate::{self, AccessFiles, GateError, replace};
use super::hba::Gate;
use super::layout::Kind;
use super::needed::{Inputs, Needed, Note, needed};
use super::owner::{Owner, OwnerError};
use super::server::{Flush, Server, ServerError};
use crate::clock::Clocks;
use crate::config::Settings;
use crate::durable::{self, DurableError};
use crate::trust::credentials::{CredentialsError, TlsFiles};
use crate::trust::{Credentials, Identity};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use pgaa_core::observed::DiskFacts;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Our file, below the configuration directory. Debian's clusters include `conf.d`.
pub const OUR_FILE: &str = "conf.d/90-pgaa.conf";
/// In the state directory while a cluster is being made.
const INTENT: &str = "creating-cluster";

/// PostgreSQL can't be made ready.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// We can't act for the owner of the files.
    #[error("PostgreSQL's files can't be used")]
    Owner(#[from] OwnerError),
    /// One of PostgreSQL's programs failed.
    #[error("PostgreSQL can't be made ready")]
    Server(#[from] ServerError),
    /// The configuration can't be read.
    #[error("PostgreSQL's configuration can't be read")]
    Conf(#[from] ConfError),
    /// A file can't be written.
    #[error("PostgreSQL's configuration can't be written")]
    File(#[from] DurableError),
    /// pg_hba.conf or pg_ident.conf can't be written.
    #[error("the gate can't be set")]
    Gate(#[from] GateError),
    /// A directory can't be made.
    #[error("cannot create {}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no server to make ready.
    #[error("there is no PostgreSQL in {}: apt install postgresql-15 postgresql-15-pglogical, then: \
             systemctl restart pgaa-provision pgaa-agent", .0.display())]
    NoServer(PathBuf),
    /// pglogical isn't installed; a server told to load it would not start.
    #[error("pglogical is not installed for the server in {}: apt install postgresql-15-pglogical, \
             then: systemctl restart pgaa-provision pgaa-agent", .0.display())]
    NoPglogical(PathBuf),
    /// The node's certificate can't be made.
    #[error("this node's certificate can't be made")]
    Credentials(#[from] CredentialsError),
    /// A file of the certificate can't be read; a server told to use it would not start.
    #[error("{user} can't read {}: restore it, or remove its directory to have all made anew", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
        /// Who has to read it.
        user: String,
    },
    /// PostgreSQL would refuse the key.
    #[error("{} may be read by others, and PostgreSQL refuses such a key: chmod 0600 it", .0.display())]
    OpenKey(PathBuf),
    /// An earlier run broke off while the cluster was made.
    #[error(
        "{} was left half made by a run that broke off: remove it if nothing in it is yours, or \
         remove {} if it is a cluster to be kept",
        data_dir.display(), intent.display()
    )]
    HalfMade {
        /// The data directory.
        data_dir: PathBuf,
        /// Our note about it.
        intent: PathBuf,
    },
    /// The data directory holds something else.
    #[error("{} is not empty and holds no PostgreSQL cluster: empty it, or set postgres.data_dir", .0.display())]
    NotEmpty(PathBuf),
    /// The disk can't be looked at.
    #[error("cannot see how full the disk of {} is", path.display())]
    Disk {
        /// A directory on it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionReport {
    /// Was the cluster made by this run?
    pub created: bool,
    /// The gate now.
    pub gate: Gate,
    /// What was changed, a sentence each; empty when all was as it should be.
    pub done: Vec<String>,
    /// What is off because the operator configured something else.
    pub notes: Vec<Note>,
}

/// Makes the local PostgreSQL ready.
pub fn provision(settings: &Settings) -> Result<ProvisionReport, ProvisionError> {
    let server = Server::new(&settings.postgres)?;
    if !settings.postgres.bin_dir.join("postgres").exists() {
        return Err(ProvisionError::NoServer(settings.postgres.bin_dir.clone()));
    }
    if !server.has_pglogical()? {
        return Err(ProvisionError::NoPglogical(
            settings.postgres.bin_dir.clone(),
        ));
    }
    ensure_certificate(server.owner(), &settings.paths.state_dir)?;
    let mut done = Vec::new();
    let created = ensure_cluster(settings, &server, &mut done)?;
    let (needed, written) = write_conf(settings)?;
    done.extend(written);
    let gate = write_gate(settings, &server, &mut done)?;
    Ok(ProvisionReport {
        created,
        gate,
        done,
        notes: needed.notes,
    })
}

/// Writes our configuration file and whatever makes PostgreSQL read it; returns what is needed,
/// and what was changed. Also the probe before each start of the server: it keeps
/// `output_plugin_libraries` right when the minor version changes.
pub fn write_conf(settings: &Settings) -> Result<(Needed, Vec<String>), ProvisionError> {
    let server = Server::new(&settings.postgres)?;
    let needed = needed_now(settings)?;
    let header = match server.kind() {
        Kind::Debian { .. } => DEBIAN_HEADER,
        Kind::Bare => BARE_HEADER,
    };
    let text = render(&needed, header);
    let config_dir = &settings.postgres.config_dir;
    let data_dir = &settings.postgres.data_dir;
    let done = server.owner().act(|| {
        let mut done = Vec::new();
        let ours = config_dir.join(OUR_FILE);
        durable::make_directory(ours.parent().unwrap_or(config_dir), 0o755)?;
        let before = durable::read(&ours)?.unwrap_or_default();
        if replace(&ours, &before, text.as_bytes())? {
            done.push(format!("wrote {}", ours.display()));
        }
        if !Files::read(config_dir, data_dir)?.includes(&ours) {
            done.push(include(&config_dir.join("postgresql.conf"))?);
        }
        Ok::<_, ProvisionError>(done)
    })??;
    Ok((needed, done))
}

/// The probe before each start of the server `instance` ("15-main"): does [`write_conf`] where
/// that is the mesh's cluster and an earlier run has made it ready. The first file is
/// `provision`'s to write, which also makes the certificate that it names.
pub fn refresh(settings: &Settings, instance: &str) -> Result<Vec<String>, ProvisionError> {
    let server = Server::new(&settings.postgres)?;
    let ours = settings.postgres.config_dir.join(OUR_FILE);
    let ready = server.owner().act(|| ours.exists())?;
    if server.kind().instance().as_deref() != Some(instance) || !ready {
        return Ok(Vec::new());
    }
    write_conf(settings).map(|(_, done)| done)
}

/// The file with the command that archives this server's WAL. There is none on a node that doesn't
/// own the backups.
#[must_use]
pub fn archive_file(settings: &Settings) -> PathBuf {
    settings.paths.state_dir.join("backup/archive-command")
}

/// What is needed on this server now; for the comparison with what it runs with.
pub fn needed_now(settings: &Settings) -> Result<Needed, ProvisionError> {
    let server = Server::new(&settings.postgres)?;
    let output_plugins = server.output_plugins()?;
    let config_dir = &settings.postgres.config_dir;
    let data_dir = &settings.postgres.data_dir;
    let ours = config_dir.join(OUR_FILE);
    let (files, disk, written, archive) = server.owner().act(|| {
        let archive = durable::read(&archive_file(settings))?.unwrap_or_default();
        let written = durable::read(&ours)?.unwrap_or_default();
        let files = Files::read(config_dir, data_dir)?;
        Ok::<_, ProvisionError>((files, wal_disk(data_dir)?, written, archive))
    })??;
    let archive = String::from_utf8_lossy(&archive);
    Ok(needed(Inputs {
        settings,
        archive: Some(archive.trim()).filter(|command| !command.is_empty()),
        tls: &TlsFiles::below(&settings.paths.state_dir),
        kind: server.kind(),
        disk,
        output_plugins: output_plugins.as_deref(),
        foreign: &files.foreign(&ours),
        backstop_bytes: written_backstop(&String::from_utf8_lossy(&written)),
    }))
}

/// `max_slot_wal_keep_size` as an earlier run has written it.
fn written_backstop(ours: &str) -> Option<u64> {
    let assigned = conf::parse(ours).into_iter();
    let (_, _, value) = assigned
        .into_iter()
        .find(|(_, name, _)| name == "max_slot_wal_keep_size")?;
    let megabytes: u64 = value.strip_suffix("MB")?.parse().ok()?;
    megabytes.checked_mul(1 << 20)
}

const DEBIAN_HEADER: &str = "\
# Written by pgaa-agent; what is changed here is lost. A setting in a file of this directory
# that sorts later (99-local.conf) overrides it; `pgaa-agent status` shows what is overridden.
";
const BARE_HEADER: &str = "\
# Written by pgaa-agent; what is changed here is lost. A setting below the include line at the
# end of postgresql.conf overrides it; `pgaa-agent status` shows what is overridden.
";

fn render(needed: &Needed, header: &str) -> String {
    let mut text = header.to_owned();
    for item in &needed.items {
        if let Some(value) = &item.value {
            text += &format!(
                "\n# {}\n{} = {}\n",
                item.reason,
                item.name,
                conf::quote(value)
            );
        }
    }
    text
}

/// Makes PostgreSQL read our file where nothing includes it yet.
fn include(main: &Path) -> Result<String, DurableError> {
    let before = durable::read(main)?.unwrap_or_default();
    let mut after = before.clone();
    if after.last().is_some_and(|last| *last != b'\n') {
        after.push(b'\n');
    }
    after.extend_from_slice(b"include_if_exists = '");
    after.extend_from_slice(OUR_FILE.as_bytes());
    after.extend_from_slice(b"'\t# added by pgaa-agent\n");
    replace(main, &before, &after)?;
    Ok(format!(
        "added a line to {} that includes {OUR_FILE}",
        main.display()
    ))
}

/// The disk that holds the WAL (`pg_wal` may be a link to another one).
pub fn wal_disk(data_dir: &Path) -> Result<DiskFacts, ProvisionError> {
    let path = data_dir.join("pg_wal");
    let failed = |source| ProvisionError::Disk {
        path: path.clone(),
        source,
    };
    let disk = statvfs(&path).map_err(|errno| failed(errno.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    Ok(DiskFacts {
        total_bytes: bytes(disk.blocks()),
        free_bytes: bytes(disk.blocks_available()),
        wal_bytes: wal_bytes(&path).map_err(failed)?,
    })
}

/// What the segments take: they are of one size, so that one of them is asked for it.
fn wal_bytes(pg_wal: &Path) -> io::Result<u64> {
    let mut count: u64 = 0;
    let mut size = 0;
    for entry in fs::read_dir(pg_wal)? {
        let entry = entry?;
        let name = entry.file_name();
        let segment = name.len() == 24 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
        if segment && size == 0 {
            // It may have been removed since.
            size = entry.metadata().map_or(0, |metadata| metadata.len());
        }
        count += u64::from(segment);
    }
    Ok(count.saturating_mul(size))
}

/// Mints identity and certificate where there is none, and sees that PostgreSQL will take it.
fn ensure_certificate(owner: &Owner, state_dir: &Path) -> Result<(), ProvisionError> {
    let tls = TlsFiles::below(state_dir);
    make_directory(owner, state_dir, 0o700)?;
    owner.act(|| {
        // Opening the identity counts a start of the agent: never beside one that runs.
        if !tls.certificate.exists() {
            let identity = Identity::open(state_dir)?;
            Credentials::open(state_dir, identity.node(), Clocks::start())?;
        }
        Ok::<_, ProvisionError>(())
    })??;
    let readable = |path: &Path| owner.act(|| fs::File::open(path).is_ok());
    for path in [&tls.certificate, &tls.key, &tls.ca] {
        if !readable(path)? {
            return Err(ProvisionError::NoCertificate {
                path: path.clone(),
                user: owner.name.clone(),
            });
        }
    }
    let key = owner.act(|| fs::metadata(&tls.key))?;
    let mode = key.map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        return Err(ProvisionError::OpenKey(tls.key));
    }
    Ok(())
}

/// Makes the cluster if there is none; says whether it did.
fn ensure_cluster(
    settings: &Settings,
    server: &Server,
    done: &mut Vec<String>,
) -> Result<bool, ProvisionError> {
    let data_dir = &settings.postgres.data_dir;
    let state_dir = &settings.paths.state_dir;
    let intent = state_dir.join(INTENT);
    let owner = server.owner();
    let exists = || owner.act(|| data_dir.join("PG_VERSION").exists());
    if exists()? {
        if owner.act(|| intent.exists())? {
            return Err(ProvisionError::HalfMade {
                data_dir: data_dir.clone(),
                intent,
            });
        }
        return Ok(false);
    }
    if owner.act(|| fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some()))? {
        return Err(ProvisionError::NotEmpty(data_dir.clone()));
    }
    make_directory(owner, data_dir.parent().unwrap_or(data_dir), 0o755)?;
    owner.act(|| durable::write(&intent, b"", 0o600))??;
    let made = server.create(Flush::Now);
    // A program that failed has cleaned up after itself; one that was killed has not.
    if made.is_ok() || !exists()? {
        owner.act(|| durable::remove(&intent))??;
    }
    made?;
    done.push(format!(
        "made a new PostgreSQL cluster in {}",
        data_dir.display()
    ));
    Ok(true)
}

/// Makes a directory for the owner. Where only root may do that, root does: each missing part
/// is made by mkdir, which follows no link, below a directory that belongs to root.
fn make_directory(owner: &Owner, path: &Path, mode: u32) -> Result<(), ProvisionError> {
    let failed = |source| ProvisionError::Directory {
        path: path.to_owned(),
        source,
    };
    let as_owner = owner.act(|| durable::make_directory(path, mode))?;
    let Err(refused) = as_owner else {
        return Ok(());
    };
    let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
    let above = missing.last().and_then(|part| part.parent());
    let by_root = above
        .and_then(|above| fs::metadata(above).ok())
        .is_some_and(|m| m.uid() == 0);
    if !geteuid().is_root() || !by_root {
        return Err(refused.into());
    }
    for part in missing.iter().rev() {
        fs::create_dir(part).map_err(failed)?;
        fs::set_permissions(part, fs::Permissions::from_mode(mode)).map_err(failed)?;
        owner.take_over(part).map_err(failed)?;
    }
    Ok(())
}

/// Sets the gate: as it was on a server that we have set before; else shut where nobody can have
/// put anything into the server yet, and open where somebody may rely on it.
fn write_gate(
    settings: &Settings,
    server: &Server,
    done: &mut Vec<String>,
) -> Result<Gate, ProvisionError> {
    let access = gate::access(settings)?;
    let gate = match access.gate {
        Some(gate) => gate,
        None if server.is_pristine()? => Gate::Shut,
        None => Gate::Open,
    };
    let changed = gate::set_access(settings, gate, &access.members)?;
    let files = server
        .owner()
        .act(|| AccessFiles::of(&settings.postgres))??;
    if changed.hba {
        let word = match gate {
            Gate::Shut => "shut",
            Gate::Open => "open",
        };
        done.push(format!(
            "wrote the gate ({word}) at the top of {}",
            files.hba.display()
        ));
    }
    if changed.ident {
        done.push(format!(
            "wrote the members at the top of {}",
            files.ident.display()
        ));
    }
    Ok(gate)
}
