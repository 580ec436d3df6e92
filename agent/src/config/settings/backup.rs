//! `[backup]`, checked.

use croner::Cron;
use pgaa_core::backup::BackupKind;
use std::path::PathBuf;

/// Where backups are kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// `backup.repository`; `None` when backups are off.
    pub repository: Option<Repository>,
    /// `backup.path`: the directory in the repository.
    pub path: PathBuf,
    /// `backup.ca_file`
    pub ca_file: Option<PathBuf>,
    /// `backup.port`
    pub port: Option<u16>,
    /// Where the secret that belongs to the repository is read from; the first that exists counts.
    pub key_files: Vec<PathBuf>,
    /// The same for the pass phrase that encrypts it.
    pub cipher_files: Vec<PathBuf>,
    /// Was `backup.cipher_file` set? Then it has to be there.
    pub cipher_required: bool,
    /// `backup.compress`
    pub compress: String,
    /// `backup.processes`
    pub processes: u16,
    /// When which kind of backup is due.
    pub schedules: Schedules,
    /// How much is kept.
    pub keep: Keep,
    /// `backup.archive_timeout_s`; 0 for never.
    pub archive_timeout_s: u32,
    /// `backup.options`: name and value.
    pub options: Vec<(String, String)>,
    /// `backup.pgbackrest`
    pub program: PathBuf,
}

/// The kinds of repositories, each with what only it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// A directory that all nodes share.
    Posix,
    /// S3, and what is compatible with it.
    S3 {
        /// The bucket.
        bucket: String,
        /// The host.
        endpoint: String,
        /// The region.
        region: String,
        /// "host" or "path".
        uri_style: String,
        /// "shared", "auto" or "web-id".
        key_type: String,
        /// The access key's id; empty without one.
        key_id: String,
    },
    /// Azure.
    Azure {
        /// The container.
        container: String,
        /// The host, where it isn't Azure's own.
        endpoint: String,
        /// "host" or "path".
        uri_style: String,
        /// "shared", "sas" or "auto".
        key_type: String,
        /// The account.
        account: String,
    },
    /// Google's storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// The host, where it isn't Google's own.
        endpoint: String,
        /// "service", "auto" or "token".
        key_type: String,
    },
    /// A server of SFTP.
    Sftp {
        /// The server.
        host: String,
        /// The account there.
        user: String,
        /// Which key the server has.
        known_hosts: Option<PathBuf>,
    },
}

impl Repository {
    /// Has it a secret of its own?
    #[must_use]
    pub fn has_key(&self) -> bool {
        match self {
            Repository::Posix => false,
            Repository::S3 { key_type, .. } => key_type == "shared",
            Repository::Azure { key_type, .. } | Repository::Gcs { key_type, .. } => {
                key_type != "auto"
            }
            Repository::Sftp { .. } => true,
        }
    }

    /// For people: "s3 shop-backups at s3.example.com". No secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        let at = |endpoint: &str| match endpoint {
            "" => String::new(),
            endpoint => format!(" at {endpoint}"),
        };
        match self {
            Repository::Posix => "posix".to_owned(),
            Repository::S3 {
                bucket, endpoint, ..
            } => format!("s3 {bucket}{}", at(endpoint)),
            Repository::Azure {
                container,
                endpoint,
                ..
            } => format!("azure {container}{}", at(endpoint)),
            Repository::Gcs {
                bucket, endpoint, ..
            } => format!("gcs {bucket}{}", at(endpoint)),
            Repository::Sftp { host, user, .. } => format!("sftp {user}@{host}"),
        }
    }
}

/// When which kind of backup is due; `None` for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedules {
    /// `backup.full`
    pub full: Option<Cron>,
    /// `backup.differential`
    pub differential: Option<Cron>,
    /// `backup.incremental`
    pub incremental: Option<Cron>,
    /// `backup.prove`: when the newest one is proven.
    pub prove: Option<Cron>,
}

impl Schedules {
    /// The schedule of one kind.
    #[must_use]
    pub fn of(&self, kind: BackupKind) -> Option<&Cron> {
        match kind {
            BackupKind::Full => self.full.as_ref(),
            BackupKind::Differential => self.differential.as_ref(),
            BackupKind::Incremental => self.incremental.as_ref(),
        }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// `backup.keep_full`
    pub full: u16,
    /// `backup.keep_days`, which counts in place of it.
    pub days: Option<u16>,
    /// `backup.keep_differential`
    pub differential: Option<u16>,
}

impl Default for BackupSettings {
    /// Backups are off.
    fn default() -> BackupSettings {
        BackupSettings {
            repository: None,
            path: PathBuf::from("/pgaa"),
            ca_file: None,
            port: None,
            key_files: Vec::new(),
            cipher_files: Vec::new(),
            cipher_required: false,
            compress: "zst".to_owned(),
            processes: 1,
            schedules: Schedules {
                full: None,
                differential: None,
                incremental: None,
                prove: None,
            },
            keep: Keep {
                full: 2,
                days: None,
                differential: None,
            },
            archive_timeout_s: 60,
            options: Vec::new(),
            program: PathBuf::from("/usr/bin/pgbackrest"),
        }
    }
}
