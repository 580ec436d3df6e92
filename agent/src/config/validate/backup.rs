//! `[backup]`: what it means, and what doesn't fit together.

use super::Check;
use crate::config::settings::{BackupSettings, Keep, Repository, Schedules};
use croner::Cron;
use pgaa_core::backup::BackupPolicy;
use std::path::PathBuf;
use std::time::Duration;

/// Options of pgBackRest that hold a secret: they belong in files of their own.
const SECRETS: &[&str] = &[
    "cipher-pass",
    "s3-key",
    "s3-key-secret",
    "s3-token",
    "azure-key",
    "gcs-key",
    "sftp-private-key-passphrase",
];

/// Options that the agent relies on, by the part after `repo1-` or `pg1-`.
const OURS: &[&str] = &[
    "config",
    "config-path",
    "config-include-path",
    "lock-path",
    "log-path",
    "log-level-console",
    "log-level-file",
    "log-level-stderr",
    "log-timestamp",
    "stanza",
    "type",
    "path",
    "port",
    "socket-path",
    "archive-async",
    "archive-push-queue-max",
    "cipher-type",
];

impl Check<'_> {
    pub(super) fn backup_policy(&self) -> BackupPolicy {
        let most = self.merged.set("backup.waiting_max_mb");
        BackupPolicy {
            enabled: self.text("backup.repository").as_deref() != Some("off"),
            prefer_nodes: self.list("backup.prefer_nodes"),
            prefer_sites: self.list("backup.prefer_sites"),
            exclude_nodes: self.list("backup.exclude_nodes"),
            exclude_sites: self.list("backup.exclude_sites"),
            hand_over: Duration::from_secs(self.number("backup.hand_over_s")),
            waiting_bytes_max: most.map(|_| self.number::<u64>("backup.waiting_max_mb") << 20),
        }
    }

    pub(super) fn backup(&mut self) -> BackupSettings {
        let repository = self.repository();
        let path = self.repository_path(repository.as_ref());
        BackupSettings {
            path,
            ca_file: self.path("backup.ca_file"),
            port: self
                .merged
                .set("backup.port")
                .map(|_| self.number("backup.port")),
            key_files: self.secret_files("backup.key_file", "backup-key", true),
            cipher_files: self.secret_files("backup.cipher_file", "backup-cipher", false),
            cipher_required: self.path("backup.cipher_file").is_some(),
            compress: self.text("backup.compress").unwrap_or_default(),
            processes: self.number("backup.processes"),
            schedules: Schedules {
                full: self.schedule("backup.full"),
                differential: self.schedule("backup.differential"),
                incremental: self.schedule("backup.incremental"),
                prove: self.schedule("backup.prove"),
            },
            keep: Keep {
                full: self.number("backup.keep_full"),
                days: self.optional("backup.keep_days"),
                differential: self.optional("backup.keep_differential"),
            },
            archive_timeout_s: self.number("backup.archive_timeout_s"),
            options: self.options(),
            program: self.path("backup.pgbackrest").unwrap_or_default(),
            repository,
        }
    }

    fn optional(&self, key: &str) -> Option<u16> {
        self.merged.set(key).map(|_| self.number(key))
    }

    /// Where a secret is looked for: the file that was named, else the service's credential, else,
    /// where there has to be one, the usual place.
    fn secret_files(&self, key: &str, name: &str, needed: bool) -> Vec<PathBuf> {
        if let Some(file) = self.path(key) {
            return vec![file];
        }
        let credentials = self.surroundings.credentials_dir.iter();
        let credential = credentials.map(|dir| dir.join(format!("pgaa.{name}")));
        let usual = needed.then(|| PathBuf::from(format!("/etc/pgaa/{name}")));
        credential.chain(usual).collect()
    }

    /// A text that may be left empty in general, and not with this repository.
    fn wanted(&mut self, key: &str, kind: &str, what: &str) -> String {
        let text = self.text(key).unwrap_or_default();
        if text.is_empty() {
            self.problem(key, format!("must be set for {kind}: {what}"));
        } else if text.chars().any(char::is_control) {
            self.problem(key, format!("{text:?} can't be written to a file of lines"));
        }
        text
    }

    /// How the repository is logged in to: one of these, the first by default.
    fn key_type(&mut self, kind: &str, among: &[&str]) -> String {
        let first = among.first().copied().unwrap_or_default();
        let word = self.text("backup.key_type").unwrap_or(first.to_owned());
        if !among.contains(&word.as_str()) {
            let text = format!("must be one of {} for {kind}", among.join(", "));
            self.problem("backup.key_type", text);
        }
        word
    }

    fn repository(&mut self) -> Option<Repository> {
        let kind = self.text("backup.repository").unwrap_or_default();
        let endpoint = self.text("backup.endpoint").unwrap_or_default();
        let uri_style = self.text("backup.uri_style").unwrap_or_default();
        match kind.as_str() {
            "posix" => Some(Repository::Posix),
            "s3" => {
                let key_type = self.key_type(&kind, &["shared", "auto", "web-id"]);
                let key_id = match key_type.as_str() {
                    "shared" => self.wanted("backup.key_id", &kind, "the access key's id"),
                    _ => String::new(),
                };
                Some(Repository::S3 {
                    bucket: self.wanted("backup.bucket", &kind, "the bucket"),
                    endpoint: self.wanted("backup.endpoint", &kind, "the host"),
                    region: self.wanted("backup.region", &kind, "the region"),
                    uri_style,
                    key_type,
                    key_id,
                })
            }
            "azure" => Some(Repository::Azure {
                container: self.wanted("backup.bucket", &kind, "the container"),
                endpoint,
                uri_style,
                key_type: self.key_type(&kind, &["shared", "sas", "auto"]),
                account: self.wanted("backup.key_id", &kind, "the account"),
            }),
            "gcs" => Some(Repository::Gcs {
                bucket: self.wanted("backup.bucket", &kind, "the bucket"),
                endpoint,
                key_type: self.key_type(&kind, &["service", "auto", "token"]),
            }),
            "sftp" => Some(Repository::Sftp {
                host: self.wanted("backup.endpoint", &kind, "the server"),
                user: self.wanted("backup.key_id", &kind, "the account there"),
                known_hosts: self.path("backup.known_hosts_file"),
            }),
            _ => None,
        }
    }

    fn repository_path(&mut self, repository: Option<&Repository>) -> PathBuf {
        if let Some(path) = self.path("backup.path") {
            if path.to_string_lossy().chars().any(char::is_control) {
                self.problem("backup.path", "can't be written to a file of lines");
            }
            return path;
        }
        if repository == Some(&Repository::Posix) {
            let text = "must be set for posix: a directory that all nodes share";
            self.problem("backup.path", text);
        }
        PathBuf::from("/pgaa").join(self.text("cluster.name").unwrap_or_default())
    }

    fn schedule(&mut self, key: &str) -> Option<Cron> {
        let text = self.text(key).unwrap_or_default();
        if text == "off" {
            return None;
        }
        let read: Result<Cron, _> = text.parse();
        match read {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                let text = format!(
                    "{text:?} is no schedule: {error}; write minute, hour, day of the month, month, \
                     day of the week, like \"0 1 * * 0\", or \"off\""
                );
                self.problem(key, text);
                None
            }
        }
    }

    fn options(&mut self) -> Vec<(String, String)> {
        let mut options = Vec::new();
        for text in self.list("backup.options") {
            match option(&text) {
                Ok(option) => options.push(option),
                Err(why) => self.problem("backup.options", why),
            }
        }
        options
    }
}

/// Reads "NAME=VALUE".
fn option(text: &str) -> Result<(String, String), String> {
    let shape = || format!("{text:?} is not NAME=VALUE, like \"repo1-s3-kms-key-id=alias/shop\"");
    let (name, value) = text.split_once('=').ok_or_else(shape)?;
    let (name, value) = (name.trim(), value.trim());
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(allowed) || value.chars().any(char::is_control) {
        return Err(shape());
    }
    let plain = ["repo1-", "pg1-", "repo-", "pg-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    if SECRETS.contains(&plain) {
        // The value isn't repeated: it may be the secret.
        return Err(format!(
            "{name} is a secret: put it into a file, and name that in backup.key_file or \
             backup.cipher_file"
        ));
    }
    if OURS.contains(&plain) {
        return Err(format!("{name} is set by the agent and can't be changed"));
    }
    Ok((name.to_owned(), value.to_owned()))
}
