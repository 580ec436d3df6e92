//! The generated configuration file of pgBackRest.
//!
//! It holds secrets, and so is for the server's account alone. The server's archive_command reads
//! it too, whether an agent runs or not, so it lies in the state directory.

use crate::config::{BackupSettings, Repository, Settings};
use crate::durable::{self, DurableError};
use pgaa_core::backup::Stanza;
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// A secret is a line; whatever is longer is another file.
const SECRET_BYTES_MAX: usize = 16_384;

/// Options that the operator's own word replaces. A thousand small files cost a thousand round trips,
/// or syncs: small ones are put together. Without an answer pgBackRest waits for a minute, and where
/// nobody listens it tries four times as long: so long nobody would hear what is wrong, while WAL piles
/// up. It is the time in which nothing at all moves, so that a slow line isn't cut.
const UNLESS_SET: [(&str, &str); 2] = [("repo1-bundle", "y"), ("io-timeout", "15")];

/// The configuration file can't be written.
#[derive(Debug, Error)]
pub enum ConfError {
    /// A file can't be read or written.
    #[error("the configuration of pgBackRest can't be written")]
    File(#[from] DurableError),
    /// A secret is missing.
    #[error(
        "{what} is in none of {}: put it there, readable by postgres; it is tried again by itself",
        places(files)
    )]
    NoSecret {
        /// Which secret.
        what: &'static str,
        /// Where it was looked for.
        files: Vec<PathBuf>,
    },
    /// A secret can't be one.
    #[error("{} holds no {what}: it has to be one line of text", file.display())]
    BadSecret {
        /// Which secret.
        what: &'static str,
        /// In which file.
        file: PathBuf,
    },
}

fn places(files: &[PathBuf]) -> String {
    let places: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    places.join(", ")
}

/// Writes the file where it differs from what is there.
pub fn write(
    settings: &Settings,
    own: Option<&Stanza>,
    directory: &Path,
    file: &Path,
) -> Result<bool, ConfError> {
    durable::make_directory(directory, 0o700)?;
    durable::make_directory(&directory.join("lock"), 0o700)?;
    let text = render(settings, own, directory)?;
    let before = durable::read(file)?.map(Zeroizing::new);
    if before.is_some_and(|before| before.as_slice() == text.as_bytes()) {
        return Ok(false);
    }
    durable::write(file, text.as_bytes(), 0o600)?;
    Ok(true)
}

/// The lines of the file, as they are added.
struct Lines(Zeroizing<String>);

impl Lines {
    fn section(&mut self, name: &str) {
        self.0.push_str(&format!("\n[{name}]\n"));
    }

    fn add(&mut self, name: &str, value: &str) {
        for part in [name, "=", value, "\n"] {
            self.0.push_str(part);
        }
    }

    fn add_some(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.add(name, value);
        }
    }
}

fn render(
    settings: &Settings,
    own: Option<&Stanza>,
    directory: &Path,
) -> Result<Zeroizing<String>, ConfError> {
    let backup = &settings.backup;
    let mut lines = Lines(Zeroizing::new(
        "# Written by pgaa-agent from [backup] of its configuration; what is changed here is lost.\n"
            .to_owned(),
    ));
    lines.section("global");
    lines.add("repo1-path", &backup.path.to_string_lossy());
    if let Some(repository) = &backup.repository {
        of_repository(&mut lines, repository, backup)?;
    }
    encryption(&mut lines, backup)?;
    retention(&mut lines, backup);
    lines.add("compress-type", &backup.compress);
    lines.add("process-max", &backup.processes.to_string());
    lines.add("lock-path", &directory.join("lock").to_string_lossy());
    // Its words go to whoever has started it: this agent, or the server's log.
    lines.add("log-level-file", "off");
    lines.add("log-level-console", "off");
    lines.add("log-level-stderr", "warn");
    lines.add("log-timestamp", "n");
    for (option, value) in UNLESS_SET {
        if !backup.options.iter().any(|(name, _)| name == option) {
            lines.add(option, value);
        }
    }
    for (name, value) in &backup.options {
        lines.add(name, value);
    }
    if let Some(own) = own {
        let postgres = &settings.postgres;
        lines.section(own.as_str());
        lines.add("pg1-path", &postgres.data_dir.to_string_lossy());
        lines.add("pg1-port", &postgres.port.to_string());
        lines.add("pg1-socket-path", &postgres.socket_dir.to_string_lossy());
        lines.add("pg1-user", &postgres.superuser);
    }
    Ok(lines.0)
}

fn of_repository(
    lines: &mut Lines,
    repository: &Repository,
    backup: &BackupSettings,
) -> Result<(), ConfError> {
    let key = repository
        .has_key()
        .then(|| key(backup, repository))
        .transpose()?;
    let key = key.as_ref().map(|key| key.as_str()).unwrap_or_default();
    match repository {
        Repository::Posix => {
            lines.add("repo1-type", "posix");
            return Ok(());
        }
        Repository::S3 {
            bucket,
            endpoint,
            region,
            uri_style,
            key_type,
            key_id,
        } => {
            lines.add("repo1-type", "s3");
            lines.add("repo1-s3-bucket", bucket);
            lines.add("repo1-s3-endpoint", endpoint);
            lines.add("repo1-s3-region", region);
            lines.add("repo1-s3-uri-style", uri_style);
            lines.add("repo1-s3-key-type", key_type);
            lines.add_some("repo1-s3-key", key_id);
            lines.add_some("repo1-s3-key-secret", key);
        }
        Repository::Azure {
            container,
            endpoint,
            uri_style,
            key_type,
            account,
        } => {
            lines.add("repo1-type", "azure");
            lines.add("repo1-azure-container", container);
            lines.add_some("repo1-azure-endpoint", endpoint);
            lines.add("repo1-azure-uri-style", uri_style);
            lines.add("repo1-azure-key-type", key_type);
            lines.add("repo1-azure-account", account);
            lines.add_some("repo1-azure-key", key);
        }
        Repository::Gcs {
            bucket,
            endpoint,
            key_type,
        } => {
            lines.add("repo1-type", "gcs");
            lines.add("repo1-gcs-bucket", bucket);
            lines.add_some("repo1-gcs-endpoint", endpoint);
            lines.add("repo1-gcs-key-type", key_type);
            lines.add_some("repo1-gcs-key", key);
        }
        Repository::Sftp {
            host,
            user,
            known_hosts,
        } => {
            lines.add("repo1-type", "sftp");
            lines.add("repo1-sftp-host", host);
            lines.add("repo1-sftp-host-user", user);
            lines.add("repo1-sftp-host-key-hash-type", "sha256");
            lines.add("repo1-sftp-private-key-file", key);
            if let Some(known) = known_hosts {
                lines.add("repo1-sftp-known-host", &known.to_string_lossy());
            }
            if let Some(port) = backup.port {
                lines.add("repo1-sftp-host-port", &port.to_string());
            }
            return Ok(());
        }
    }
    if let Some(file) = &backup.ca_file {
        lines.add("repo1-storage-ca-file", &file.to_string_lossy());
    }
    if let Some(port) = backup.port {
        lines.add("repo1-storage-port", &port.to_string());
    }
    Ok(())
}

/// What goes into the file for the secret: mostly itself, sometimes the name of its file.
fn key(backup: &BackupSettings, repository: &Repository) -> Result<Zeroizing<String>, ConfError> {
    const WHAT: &str = "key of the repository";
    let by_name = match repository {
        Repository::Gcs { key_type, .. } => key_type == "service",
        Repository::Sftp { .. } => true,
        Repository::Posix | Repository::S3 { .. } | Repository::Azure { .. } => false,
    };
    if by_name {
        let there = backup.key_files.iter().find(|file| file.exists());
        let file = there.ok_or_else(|| no_secret(WHAT, &backup.key_files))?;
        return Ok(Zeroizing::new(file.to_string_lossy().into_owned()));
    }
    secret(WHAT, &backup.key_files)?.ok_or_else(|| no_secret(WHAT, &backup.key_files))
}

fn no_secret(what: &'static str, files: &[PathBuf]) -> ConfError {
    ConfError::NoSecret {
        what,
        files: files.to_vec(),
    }
}

fn encryption(lines: &mut Lines, backup: &BackupSettings) -> Result<(), ConfError> {
    const WHAT: &str = "pass phrase of the repository";
    match secret(WHAT, &backup.cipher_files)? {
        Some(phrase) => {
            lines.add("repo1-cipher-type", "aes-256-cbc");
            lines.add("repo1-cipher-pass", &phrase);
            Ok(())
        }
        // A repository that was to be encrypted must not be written in the clear.
        None if backup.cipher_required => Err(no_secret(WHAT, &backup.cipher_files)),
        None => Ok(()),
    }
}

fn retention(lines: &mut Lines, backup: &BackupSettings) {
    match backup.keep.days {
        Some(days) => {
            lines.add("repo1-retention-full-type", "time");
            lines.add("repo1-retention-full", &days.to_string());
        }
        None => lines.add("repo1-retention-full", &backup.keep.full.to_string()),
    }
    if let Some(differential) = backup.keep.differential {
        lines.add("repo1-retention-diff", &differential.to_string());
    }
}

/// The secret in the first of the files that exists.
fn secret(what: &'static str, files: &[PathBuf]) -> Result<Option<Zeroizing<String>>, ConfError> {
    for file in files {
        let Some(bytes) = durable::read(file)?.map(Zeroizing::new) else {
            continue;
        };
        let bad = || ConfError::BadSecret {
            what,
            file: file.clone(),
        };
        if bytes.len() > SECRET_BYTES_MAX {
            return Err(bad());
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| bad())?.trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(bad());
        }
        return Ok(Some(Zeroizing::new(text.to_owned())));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;
    use pgaa_core::ids::NodeId;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    const GENERAL: &str = "[cluster]\nname = \"shop\"\nexpect = 1\n[postgres]\ndatabase = \"shop\"\n\
                           data_dir = \"/data\"\nport = 5433\n[backup]\n";

    fn settings(backup: &str) -> Settings {
        check_text(&format!("{GENERAL}{backup}")).unwrap()
    }

    fn stanza() -> Stanza {
        Stanza::new(NodeId(Uuid::from_u128(7)), 1)
    }

    #[test]
    fn s3_with_encryption_has_every_secret_in_one_file_for_one_account() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let key = file("key", "s3cr3t\n");
        let cipher = file("cipher", "pass phrase\n");
        let settings = settings(&format!(
            "repository = \"s3\"\nbucket = \"b\"\nendpoint = \"s3.test\"\nport = 9000\nkey_id = \"id\"\n\
             uri_style = \"path\"\nkey_file = {key:?}\ncipher_file = {cipher:?}\nkeep_days = 14\n\
             ca_file = \"/ca\"\noptions = [\"repo1-s3-kms-key-id=k\"]\n"
        ));
        let state = dir.path().join("state/backup");
        let conf = state.join("pgbackrest.conf");
        assert!(write(&settings, Some(&stanza()), &state, &conf).unwrap());
        assert!(!write(&settings, Some(&stanza()), &state, &conf).unwrap());
        let text = fs::read_to_string(&conf).unwrap();
        let expected = format!(
            "# Written by pgaa-agent from [backup] of its configuration; what is changed here is lost.\n\
             \n[global]\nrepo1-path=/pgaa/shop\nrepo1-type=s3\nrepo1-s3-bucket=b\n\
             repo1-s3-endpoint=s3.test\nrepo1-s3-region=us-east-1\nrepo1-s3-uri-style=path\n\
             repo1-s3-key-type=shared\nrepo1-s3-key=id\nrepo1-s3-key-secret=s3cr3t\n\
             repo1-storage-ca-file=/ca\nrepo1-storage-port=9000\nrepo1-cipher-type=aes-256-cbc\n\
             repo1-cipher-pass=pass phrase\nrepo1-retention-full-type=time\nrepo1-retention-full=14\n\
             compress-type=zst\nprocess-max=1\nlock-path={}/lock\nlog-level-file=off\n\
             log-level-console=off\nlog-level-stderr=warn\nlog-timestamp=n\nrepo1-bundle=y\nio-timeout=15\n\
             repo1-s3-kms-key-id=k\n\
             \n[{}]\npg1-path=/data\npg1-port=5433\npg1-socket-path=/var/run/postgresql\n\
             pg1-user=postgres\n",
            state.display(),
            stanza()
        );
        assert_eq!(text, expected);
        let mode = fs::metadata(&conf).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&key, "another").unwrap();
        assert!(write(&settings, Some(&stanza()), &state, &conf).unwrap());
    }

    #[test]
    fn a_secret_that_is_missing_or_none_is_told_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let s3 = settings(&format!(
            "repository = \"s3\"\nbucket = \"b\"\nendpoint = \"e\"\nkey_id = \"id\"\nkey_file = {:?}\n",
            key.display().to_string()
        ));
        let error = |settings: &Settings| {
            let state = dir.path().join("backup");
            let failed = write(settings, None, &state, &state.join("x")).unwrap_err();
            failed.to_string()
        };
        assert!(error(&s3).contains("put it there"), "{}", error(&s3));
        fs::write(&key, "two\nlines").unwrap();
        assert!(error(&s3).contains("one line"), "{}", error(&s3));
        assert!(!error(&s3).contains("lines\""), "{}", error(&s3));
        let cipher =
            settings("repository = \"posix\"\npath = \"/r\"\ncipher_file = \"/no/such/file\"\n");
        assert!(error(&cipher).contains("pass phrase"), "{}", error(&cipher));
    }

    #[test]
    fn every_repository_is_written_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "k").unwrap();
        let key = format!("key_file = {:?}\n", key.display().to_string());
        for (backup, lines) in [
            (
                "repository = \"posix\"\npath = \"/r\"",
                vec!["repo1-type=posix", "repo1-path=/r"],
            ),
            (
                "repository = \"azure\"\nbucket = \"c\"\nkey_id = \"acc\"\nkey_type = \"sas\"",
                vec![
                    "repo1-azure-container=c",
                    "repo1-azure-key-type=sas",
                    "repo1-azure-key=k",
                ],
            ),
            (
                "repository = \"gcs\"\nbucket = \"b\"",
                vec!["repo1-gcs-bucket=b", "repo1-gcs-key-type=service"],
            ),
            (
                "repository = \"s3\"\nbucket = \"b\"\nendpoint = \"e\"\nkey_type = \"auto\"",
                vec!["repo1-s3-key-type=auto"],
            ),
            (
                "repository = \"sftp\"\nendpoint = \"h\"\nkey_id = \"u\"\nport = 2222",
                vec![
                    "repo1-sftp-host=h",
                    "repo1-sftp-host-user=u",
                    "repo1-sftp-host-port=2222",
                ],
            ),
        ] {
            let settings = settings(&format!("{backup}\n{key}"));
            let text = render(&settings, None, dir.path()).unwrap();
            for line in lines {
                assert!(
                    text.lines().any(|found| found == line),
                    "no {line} in\n{}",
                    *text
                );
            }
        }
    }
}
