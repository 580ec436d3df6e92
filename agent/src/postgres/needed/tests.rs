//! What is needed next to what operators have configured.

use super::*;
use crate::config::{Sources, Surroundings, load};
use std::fs;
use std::path::{Path, PathBuf};

const CONFIGURATION: &str = r#"
[cluster]
name = "shop"
expect = 3
max_nodes = 8
seeds = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]

[postgres]
database = "shop"
"#;

fn settings(text: &str) -> Settings {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("agent.toml");
    fs::write(&file, text).unwrap();
    let surroundings = Surroundings {
        root: root.path().to_owned(),
        host_name: "node".to_owned(),
        credentials_dir: None,
    };
    load(&Sources::single(&file), &surroundings)
        .unwrap()
        .settings
}

/// What is needed where the operator's file says `foreign`.
fn with(foreign: &str) -> Needed {
    with_plugins(foreign, Some("pgoutput, test_decoding"))
}

fn with_plugins(foreign: &str, output_plugins: Option<&str>) -> Needed {
    with_all(foreign, output_plugins, None)
}

fn with_all(foreign: &str, output_plugins: Option<&str>, backstop_bytes: Option<u64>) -> Needed {
    let lines = super::super::conf::parse(foreign)
        .into_iter()
        .map(|(line, name, value)| {
            (
                name,
                Assigned {
                    value,
                    file: PathBuf::from("/etc/x.conf"),
                    line,
                },
            )
        });
    needed(Inputs {
        settings: &settings(CONFIGURATION),
        tls: &TlsFiles::below(Path::new("/var/lib/pgaa")),
        kind: &Kind::Debian {
            version: "15".to_owned(),
            name: "main".to_owned(),
        },
        disk: DiskFacts {
            total_bytes: 100 << 30,
            free_bytes: 60 << 30,
            wal_bytes: 1 << 30,
        },
        output_plugins,
        archive: None,
        foreign: &lines.collect(),
        backstop_bytes,
    })
}

fn value<'a>(needed: &'a Needed, name: &str) -> Option<&'a str> {
    needed.item(name).and_then(|item| item.value.as_deref())
}

fn features(needed: &Needed) -> Vec<&'static str> {
    needed.notes.iter().map(|note| note.feature).collect()
}

#[test]
fn a_fresh_server_gets_everything() {
    let fresh = with("");
    let expected = [
        ("wal_level", "logical"),
        ("track_commit_timestamp", "on"),
        ("shared_preload_libraries", "pglogical"),
        (
            "output_plugin_libraries",
            "pgoutput, test_decoding, pglogical_output",
        ),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "20"),
        ("max_worker_processes", "28"),
        ("pglogical.conflict_resolution", "last_update_wins"),
        ("pglogical.conflict_log_level", "log"),
        ("pglogical.synchronous_commit", "off"),
        ("log_destination", "stderr, jsonlog"),
        ("logging_collector", "on"),
        ("log_directory", "/var/log/postgresql/15-main"),
        ("log_filename", "postgresql-%Y-%m-%d_%H%M%S.log"),
        ("log_rotation_size", "16MB"),
        ("log_truncate_on_rotation", "off"),
        ("archive_mode", "on"),
        ("archive_command", "/bin/true"),
        ("ssl", "on"),
        ("ssl_cert_file", "/var/lib/pgaa/tls/node.crt"),
        ("ssl_key_file", "/var/lib/pgaa/tls/node.key"),
        ("ssl_ca_file", "/var/lib/pgaa/tls/ca.crt"),
        ("listen_addresses", "*"),
        ("port", "5432"),
    ];
    for (name, expected) in expected {
        assert_eq!(value(&fresh, name), Some(expected), "{name}");
    }
    let keep = value(&fresh, "max_slot_wal_keep_size").unwrap();
    // What is free and what the WAL takes, less half of the reserve of 10 % of the disk.
    assert_eq!(keep, format!("{}MB", (60 + 1 - 5) * 1024));
    assert_eq!(value(&fresh, "wal_sender_timeout"), None);
    assert_eq!(fresh.notes, []);
}

#[test]
fn a_backstop_that_is_near_enough_stays() {
    // 56 GiB are right; an eighth away is near enough.
    for (written, kept) in [(50_u64, 50), (56, 56), (62, 62), (40, 56), (70, 56)] {
        let needed = with_all("", None, Some(written << 30));
        let expected = format!("{}MB", kept * 1024);
        let keep = value(&needed, "max_slot_wal_keep_size");
        assert_eq!(keep, Some(expected.as_str()), "{written}");
    }
}

#[test]
fn an_older_minor_version_isn_t_told_of_what_it_doesn_t_know() {
    assert_eq!(with_plugins("", None).item("output_plugin_libraries"), None);
}

#[test]
fn lists_are_merged_in_their_order() {
    let libraries = |foreign: &str| {
        let needed = with(&format!("shared_preload_libraries = '{foreign}'"));
        value(&needed, "shared_preload_libraries")
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        libraries("auto_explain,pg_stat_statements"),
        "auto_explain,pg_stat_statements, pglogical"
    );
    assert_eq!(libraries("$libdir/pglogical, x"), "$libdir/pglogical, x");
    assert_eq!(libraries(" "), "pglogical");
    let plugins = with("output_plugin_libraries = 'wal2json'");
    assert_eq!(
        value(&plugins, "output_plugin_libraries"),
        Some("wal2json, pglogical_output")
    );
}

#[test]
fn larger_numbers_stay() {
    let needed = with("max_wal_senders = 100\nmax_worker_processes = 9\nmax_replication_slots=x");
    assert_eq!(value(&needed, "max_wal_senders"), Some("100"));
    assert_eq!(value(&needed, "max_worker_processes"), Some("28"));
    assert_eq!(value(&needed, "max_replication_slots"), Some("40"));
    assert_eq!(
        needed.item("max_wal_senders").unwrap().rule,
        Rule::AtLeast(20)
    );
    assert_eq!(
        value(&with("wal_sender_timeout = 5s"), "wal_sender_timeout"),
        Some("60000ms")
    );
    for enough in ["0", "60s", "1min", "90000", "1h"] {
        let needed = with(&format!("wal_sender_timeout = {enough}"));
        assert_eq!(value(&needed, "wal_sender_timeout"), None, "{enough}");
    }
}

#[test]
fn a_foreign_archive_is_left_alone() {
    let needed = with("archive_mode = on\narchive_command = 'cp %p /srv/%f'");
    assert_eq!(features(&needed), ["backups"]);
    assert!(
        needed.notes[0].why.contains("/etc/x.conf:2"),
        "{:?}",
        needed.notes
    );
    assert_eq!(
        (needed.item("archive_mode"), needed.item("archive_command")),
        (None, None)
    );
    assert_eq!(
        features(&with("archive_library = 'basic_archive'")),
        ["backups"]
    );
    let always = with("archive_mode = always");
    assert_eq!(value(&always, "archive_mode"), Some("always"));
    assert_eq!(
        value(&with("archive_command = ''"), "archive_command"),
        Some("/bin/true")
    );
}

#[test]
fn logging_by_hand_is_left_alone_or_added_to() {
    let syslog = with("log_destination = 'syslog'");
    assert_eq!(features(&syslog), ["conflict log"]);
    assert_eq!(
        (
            syslog.item("log_destination"),
            syslog.item("logging_collector")
        ),
        (None, None)
    );
    let collected = with("logging_collector = on\nlog_destination = 'csvlog'\nlog_directory='/x'");
    assert_eq!(
        value(&collected, "log_destination"),
        Some("csvlog, jsonlog")
    );
    assert_eq!(
        (collected.item("log_directory"), features(&collected)),
        (None, vec![])
    );
    for quiet in ["log_error_verbosity = terse", "log_min_messages = FATAL"] {
        assert_eq!(features(&with(quiet)), ["conflict log"], "{quiet}");
    }
    let rotated = with("log_rotation_size = 1GB");
    assert_eq!(features(&rotated), ["conflict log"]);
    assert_eq!(rotated.item("logging_collector"), None);
}

#[test]
fn a_log_that_would_grow_all_day_is_not_begun() {
    let by_day = "logging_collector = on\nlog_filename = 'postgresql-%a.log'\n";
    let unbounded = with(by_day);
    assert_eq!(unbounded.item("log_destination"), None);
    assert_eq!(features(&unbounded), ["conflict log"]);
    // The operator has decided on the size of it.
    let theirs = with(&format!("{by_day}log_destination = 'jsonlog'"));
    assert_eq!(value(&theirs, "log_destination"), Some("jsonlog"));
    assert_eq!(features(&theirs), Vec::<&str>::new());
}

#[test]
fn foreign_certificates_are_left_alone() {
    for foreign in [
        "ssl = on",
        "ssl_cert_file = '/x.crt'",
        "ssl_ca_file = '/ca.crt'",
    ] {
        let needed = with(foreign);
        assert_eq!(features(&needed), ["certificates"], "{foreign}");
        assert_eq!(
            (needed.item("ssl"), needed.item("ssl_ca_file")),
            (None, None)
        );
    }
    let snakeoil = with("ssl = on\nssl_cert_file = '/etc/ssl/certs/ssl-cert-snakeoil.pem'");
    assert_eq!(
        value(&snakeoil, "ssl_cert_file"),
        Some("/var/lib/pgaa/tls/node.crt")
    );
    assert_eq!(features(&snakeoil), [""; 0]);
}

#[test]
fn addresses_the_operator_chose_are_kept_and_judged() {
    assert_eq!(
        features(&with("listen_addresses = 'localhost, 127.0.0.1'")),
        ["replication"]
    );
    assert_eq!(features(&with("listen_addresses = '10.0.0.1'")), [""; 0]);
    assert_eq!(features(&with("port = 5433")), ["replication"]);
    assert_eq!(features(&with("port = 5432")), [""; 0]);
    assert_eq!(
        features(&with("unix_socket_directories = '/tmp'")),
        ["agent"]
    );
    let both = with("unix_socket_directories = '/tmp, /run/postgresql, /var/run/postgresql'");
    assert_eq!(features(&both), [""; 0]);
}
