//! What `info --output=json` and `repo-ls --output=json` print.
//!
//! Fields that are missing, or of another type than documented, are an error and never a guess.

use super::error::{BackupError, Cause};
use pgaa_core::backup::repository::{BackupSet, StanzaContents};
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::ids::Lsn;
use pgaa_core::time::Wall;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The note that a backup carries: the node's name.
pub const NOTE_NODE: &str = "node";

/// The note on a backup that follows a gap: since when, Unix milliseconds.
pub const NOTE_GAP: &str = "gap-since-ms";

#[derive(Deserialize)]
struct WireStanza {
    name: String,
    #[serde(default)]
    archive: Vec<WireArchive>,
    #[serde(default)]
    backup: Vec<WireBackup>,
    #[serde(default)]
    repo: Vec<WireRepo>,
    status: WireStatus,
}

#[derive(Deserialize)]
struct WireRepo {
    status: WireTold,
}

#[derive(Deserialize)]
struct WireTold {
    code: u32,
    message: String,
}

/// The status of a repository that could not be read. `info` itself then ends as if all were well.
const UNREAD: u32 = 99;

#[derive(Deserialize)]
struct WireArchive {
    max: Option<String>,
}

#[derive(Deserialize)]
struct WireStatus {
    code: u32,
    message: String,
    lock: Option<WireLock>,
}

#[derive(Deserialize)]
struct WireLock {
    backup: WireHeld,
}

#[derive(Deserialize)]
struct WireHeld {
    held: bool,
}

#[derive(Deserialize)]
struct WireBackup {
    label: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: WireTimes,
    lsn: Option<WireLsns>,
    info: WireSizes,
    /// `null` where nobody has looked.
    error: Option<bool>,
    #[serde(default)]
    annotation: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct WireTimes {
    start: i64,
    stop: i64,
}

#[derive(Deserialize)]
struct WireLsns {
    start: Lsn,
    stop: Lsn,
}

#[derive(Deserialize)]
struct WireSizes {
    size: u64,
    repository: WireDelta,
}

#[derive(Deserialize)]
struct WireDelta {
    delta: Option<u64>,
}

/// An entry of `repo-ls`.
#[derive(Deserialize)]
struct WireEntry {
    #[serde(rename = "type")]
    kind: String,
    time: Option<i64>,
}

fn nonsense(error: &serde_json::Error) -> BackupError {
    BackupError::Nonsense(error.to_string())
}

fn seconds(seconds: i64) -> Wall {
    Wall(seconds.saturating_mul(1000))
}

/// Reads the answer of `info`. Stanzas that aren't ours are left out.
pub fn read(text: &str) -> Result<Vec<StanzaContents>, BackupError> {
    let stanzas: Vec<WireStanza> = serde_json::from_str(text).map_err(|e| nonsense(&e))?;
    let mut repositories = stanzas.iter().flat_map(|stanza| &stanza.repo);
    if let Some(unread) = repositories.find(|repo| repo.status.code == UNREAD) {
        let text = &unread.status.message;
        let words = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("HINT:"));
        let text: String = words
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(600)
            .collect();
        return Err(BackupError::Refused {
            command: "info".to_owned(),
            code: i32::try_from(UNREAD).unwrap_or_default(),
            cause: Cause::of(0, &text),
            text,
        });
    }
    let ours = stanzas
        .into_iter()
        .filter_map(|stanza| Some((Stanza::read(&stanza.name)?, stanza)));
    ours.map(|(name, stanza)| contents(name, stanza)).collect()
}

fn contents(name: Stanza, wire: WireStanza) -> Result<StanzaContents, BackupError> {
    let backups: Result<Vec<BackupSet>, BackupError> =
        wire.backup.into_iter().map(backup).collect();
    let mut backups = backups?;
    backups.sort_by_key(|backup| backup.stopped_at);
    // 0: all is well; 2: no backups yet. The rest, 1 (no such stanza) among it, is a problem.
    let problem = !matches!(wire.status.code, 0 | 2);
    Ok(StanzaContents {
        stanza: name,
        backups,
        wal_last: wire.archive.into_iter().filter_map(|a| a.max).max(),
        archived_at: None,
        problem: problem.then_some(wire.status.message),
        running: wire.status.lock.is_some_and(|lock| lock.backup.held),
    })
}

fn backup(wire: WireBackup) -> Result<BackupSet, BackupError> {
    let kind = match wire.kind.as_str() {
        "full" => BackupKind::Full,
        "diff" => BackupKind::Differential,
        "incr" => BackupKind::Incremental,
        other => return Err(BackupError::Nonsense(format!("a backup of type {other:?}"))),
    };
    let gap = wire.annotation.get(NOTE_GAP);
    Ok(BackupSet {
        label: wire.label,
        kind,
        started_at: seconds(wire.timestamp.start),
        stopped_at: seconds(wire.timestamp.stop),
        wal_start: wire.lsn.as_ref().map(|lsn| lsn.start).unwrap_or_default(),
        wal_stop: wire.lsn.as_ref().map(|lsn| lsn.stop).unwrap_or_default(),
        size_bytes: wire.info.size,
        stored_bytes: wire.info.repository.delta.unwrap_or_default(),
        damaged_pages: wire.error == Some(true),
        node_name: wire.annotation.get(NOTE_NODE).cloned().unwrap_or_default(),
        gap_since: gap.and_then(|gap| gap.parse().ok()).map(Wall),
    })
}

fn entries(text: &str) -> Result<BTreeMap<String, WireEntry>, BackupError> {
    serde_json::from_str(text).map_err(|error| nonsense(&error))
}

/// The directories that `repo-ls` has listed.
pub fn directories(text: &str) -> Result<Vec<String>, BackupError> {
    let listed = entries(text)?.into_iter();
    let paths = listed.filter(|(name, entry)| entry.kind == "path" && name != ".");
    Ok(paths.map(|(name, _)| name).collect())
}

/// When the file that begins with this segment's name was written; `None` where there is none.
pub fn time_of(text: &str, segment: &str) -> Result<Option<Wall>, BackupError> {
    let listed = entries(text)?.into_iter();
    let written = listed
        .filter(|(name, _)| {
            name.strip_prefix(segment)
                .is_some_and(|rest| rest.starts_with('-'))
        })
        .filter_map(|(_, entry)| entry.time);
    Ok(written.max().map(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "pgaa-00000000000000000000000000000007-6b024c1ea5e80001";

    /// What pgBackRest 2.45 printed, with the name of a stanza of ours.
    fn printed() -> String {
        let text = r#"[{"archive":[{"database":{"id":1,"repo-key":1},"id":"15-1","max":"000000010000000000000002","min":"000000010000000000000001"}],"backup":[{"annotation":{"node":"a","gap-since-ms":"1795291000000"},"archive":{"start":"000000010000000000000002","stop":"000000010000000000000002"},"backrest":{"format":5,"version":"2.45"},"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":22992587,"repository":{"delta":2811797,"size":2811797},"size":22992587},"label":"20261121-200954F","lsn":{"start":"0/2000028","stop":"0/2000100"},"prior":null,"reference":null,"timestamp":{"start":1795291794,"stop":1795291797},"type":"full"}],"cipher":"none","db":[{"id":1,"repo-key":1,"system-id":7710719536835494248,"version":"15"}],"name":"NAME","repo":[{"cipher":"none","key":1,"status":{"code":0,"message":"ok"}}],"status":{"code":0,"lock":{"backup":{"held":false}},"message":"ok"}},{"archive":[],"backup":[],"cipher":"none","db":[],"name":"theirs","repo":[],"status":{"code":1,"lock":{"backup":{"held":false}},"message":"missing stanza path"}}]"#;
        text.replace("NAME", STANZA)
    }

    #[test]
    fn what_pgbackrest_prints_is_read() {
        let all = read(&printed()).unwrap();
        let [contents] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert_eq!(contents.stanza.as_str(), STANZA);
        assert_eq!(contents.problem, None);
        assert_eq!(
            contents.wal_last.as_deref(),
            Some("000000010000000000000002")
        );
        let backup = &contents.backups[0];
        assert_eq!(backup.kind, BackupKind::Full);
        assert_eq!(backup.stopped_at, Wall(1_795_291_797_000));
        assert_eq!(backup.gap_since, Some(Wall(1_795_291_000_000)));
        assert_eq!(
            (backup.node_name.as_str(), backup.stored_bytes),
            ("a", 2_811_797)
        );
        assert_eq!(backup.wal_stop, Lsn(0x200_0100));
    }

    #[test]
    fn an_answer_that_is_cut_or_odd_is_an_error() {
        let whole = printed();
        for end in (0..whole.len()).step_by(97) {
            assert!(read(&whole[..end]).is_err(), "{end} bytes were taken");
        }
        for (from, to) in [
            ("\"type\":\"full\"", "\"type\":\"half\""),
            ("1795291794", "\"yesterday\""),
            ("\"size\":22992587}", "\"size\":-1}"),
            ("0/2000028", "nowhere"),
        ] {
            assert!(read(&whole.replace(from, to)).is_err(), "{to} was taken");
        }
        assert_eq!(read("[]").unwrap(), []);
    }

    #[test]
    fn a_repository_that_can_not_be_read_is_not_an_empty_one() {
        // What 2.45 printed, ending with 0.
        let printed = r#"[{"archive":[],"backup":[],"cipher":"none","db":[],"name":"[invalid]","repo":[{"cipher":"none","key":1,"status":{"code":99,"message":"[CryptoError] unable to verify certificate presented by 'x:9443': [18] self-signed certificate\n            HINT: is or was the repo encrypted?"}}],"status":{"code":99,"lock":{"backup":{"held":false}},"message":"other"}}]"#;
        let error = read(printed).unwrap_err();
        assert_eq!(error.cause(), Some(Cause::Certificate));
        assert!(!error.to_string().contains("HINT"), "{error}");
    }

    #[test]
    fn the_archive_is_listed() {
        let listed = r#"{".":{"type":"path"},"15-1":{"type":"path"},"archive.info":{"type":"file","size":253,"time":1}}"#;
        assert_eq!(directories(listed).unwrap(), ["15-1"]);
        let listed = r#"{".":{"type":"path"},"000000010000000000000002-c0bc.zst":{"type":"file","size":676,"time":1795291797},"000000010000000000000002.00000028.backup":{"type":"file","size":371,"time":1795291799}}"#;
        let at = |segment| time_of(listed, segment).unwrap();
        assert_eq!(
            at("000000010000000000000002"),
            Some(Wall(1_795_291_797_000))
        );
        assert_eq!(at("000000010000000000000003"), None);
    }
}
