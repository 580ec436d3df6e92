//! The keys of `[backup]`.

use super::{Default, Key, Kind, key};

/// What repositories can be; the words are pgBackRest's.
pub const REPOSITORIES: &[&str] = &["off", "posix", "s3", "azure", "gcs", "sftp"];

const KEY_TYPES: &[&str] = &["shared", "auto", "web-id", "sas", "service", "token"];
const COMPRESSIONS: &[&str] = &["none", "gz", "lz4", "zst", "bz2"];

/// Every key of the section, in the order of the sample file.
pub(super) const KEYS: &[Key] = &[
    key(
        "backup.repository",
        Kind::Word(REPOSITORIES),
        Default::Text("off"),
        "\"s3\"",
        "Where backups are kept. The same on every node: one of them owns the backups, and another \
         takes over when it is gone. posix is a directory that all nodes share, as by NFS.",
    ),
    key(
        "backup.path",
        Kind::Path,
        Default::Unset("/pgaa/NAME OF THE CLUSTER; for posix it must be set"),
        "\"/pgaa/shop\"",
        "The directory in the repository.",
    ),
    key(
        "backup.bucket",
        Kind::Text,
        Default::Text(""),
        "\"shop-backups\"",
        "The bucket of S3 or GCS, or Azure's container.",
    ),
    key(
        "backup.endpoint",
        Kind::Text,
        Default::Text(""),
        "\"s3.eu-central-1.amazonaws.com\"",
        "The host of S3; of Azure and GCS where it isn't theirs; the server of SFTP.",
    ),
    key(
        "backup.port",
        super::PORT,
        Default::Unset("443, or 22 for SFTP"),
        "9000",
        "The endpoint's port.",
    ),
    key(
        "backup.region",
        Kind::Text,
        Default::Text("us-east-1"),
        "\"eu-central-1\"",
        "The region of S3.",
    ),
    key(
        "backup.uri_style",
        Kind::Word(&["host", "path"]),
        Default::Text("host"),
        "\"path\"",
        "Is the bucket part of the host's name, or of the path? Most servers that are compatible \
         with S3 want path.",
    ),
    key(
        "backup.ca_file",
        Kind::Path,
        Default::Unset("the machine's own list"),
        "\"/etc/pgaa/backup-ca.crt\"",
        "Who has signed the endpoint's certificate.",
    ),
    key(
        "backup.key_type",
        Kind::Word(KEY_TYPES),
        Default::Unset("shared; service for GCS"),
        "\"auto\"",
        "How the repository is logged in to, in pgBackRest's words: shared, auto (the machine's \
         role) and web-id for S3, shared, sas and auto for Azure, service, auto and token for GCS.",
    ),
    key(
        "backup.key_id",
        Kind::Text,
        Default::Text(""),
        "\"AKIAEXAMPLE\"",
        "The access key's id of S3, the account of Azure, the user of SFTP. No secret.",
    ),
    key(
        "backup.key_file",
        Kind::Path,
        Default::Unset("the systemd credential pgaa.backup-key, else /etc/pgaa/backup-key"),
        "\"/etc/pgaa/backup-key\"",
        "The file with the secret that belongs to it: S3's secret access key, Azure's key or token, \
         GCS's key or token, SFTP's private key.",
    ),
    key(
        "backup.known_hosts_file",
        Kind::Path,
        Default::Unset("known_hosts of the account postgres"),
        "\"/etc/pgaa/backup-known-hosts\"",
        "Which key the server of SFTP has, in the format of ssh.",
    ),
    key(
        "backup.cipher_file",
        Kind::Path,
        Default::Unset(
            "the systemd credential pgaa.backup-cipher where there is one, else not encrypted",
        ),
        "\"/etc/pgaa/backup-cipher\"",
        "The file with the pass phrase that encrypts the repository. It can't be changed later, and \
         without it nothing can be restored.",
    ),
    key(
        "backup.compress",
        Kind::Word(COMPRESSIONS),
        Default::Text("zst"),
        "\"lz4\"",
        "How backups and WAL are compressed.",
    ),
    key(
        "backup.processes",
        Kind::Integer { min: 1, max: 64 },
        Default::Integer(1),
        "2",
        "How many processes take a backup, at low priority.",
    ),
    key(
        "backup.full",
        Kind::Text,
        Default::Text("0 1 * * 0"),
        "\"0 1 * * 0\"",
        "When a full backup is due: minute, hour, day of the month, month, day of the week, by the \
         machine's time zone. What was missed is made up for.",
    ),
    key(
        "backup.differential",
        Kind::Text,
        Default::Text("0 1 * * 1-6"),
        "\"0 1 * * 1-6\"",
        "When a differential backup is due; \"off\" for never.",
    ),
    key(
        "backup.incremental",
        Kind::Text,
        Default::Text("off"),
        "\"0 */4 * * *\"",
        "When an incremental backup is due; \"off\" for never.",
    ),
    key(
        "backup.prove",
        Kind::Text,
        Default::Text("0 4 * * 0"),
        "\"0 4 * * 0\"",
        "When the newest backup is restored on the node that owns it and compared with the live rows; \
         \"off\" for never. It needs room for the database on the disk of the state directory.",
    ),
    key(
        "backup.keep_full",
        Kind::Integer { min: 1, max: 9_999 },
        Default::Integer(2),
        "2",
        "How many full backups are kept, with all that rest on them and the WAL since.",
    ),
    key(
        "backup.keep_days",
        Kind::Integer { min: 1, max: 9_999 },
        Default::Unset("backup.keep_full counts"),
        "14",
        "For how many days back any moment can be restored; counts in place of backup.keep_full.",
    ),
    key(
        "backup.keep_differential",
        Kind::Integer { min: 1, max: 9_999 },
        Default::Unset("as long as the full backup they rest on"),
        "7",
        "How many differential backups are kept.",
    ),
    key(
        "backup.archive_timeout_s",
        Kind::Integer { min: 0, max: 3_600 },
        Default::Integer(60),
        "60",
        "How old a change may get before its WAL is archived, seconds; 0: when a segment is full. \
         It is what is lost with all machines at once.",
    ),
    key(
        "backup.waiting_max_mb",
        Kind::Integer {
            min: 64,
            max: 1 << 40,
        },
        Default::Unset("half of what slots may hold back"),
        "20000",
        "How much WAL may wait for a repository that can't be reached, MB. Beyond it WAL is let go, \
         what it held can't be restored, and a full backup is taken when the repository is back.",
    ),
    key(
        "backup.hand_over_s",
        Kind::Integer {
            min: 10,
            max: 86_400,
        },
        Default::Integer(600),
        "600",
        "How long the owner of the backups may be gone before another node takes over, seconds.",
    ),
    key(
        "backup.prefer_sites",
        Kind::List,
        Default::EmptyList,
        "[\"eu-west\"]",
        "Sites whose nodes are to own the backups if one of them can.",
    ),
    key(
        "backup.prefer_nodes",
        Kind::List,
        Default::EmptyList,
        "[\"node-3\"]",
        "Nodes that are to own the backups if one of them can, by name; before prefer_sites.",
    ),
    key(
        "backup.exclude_sites",
        Kind::List,
        Default::EmptyList,
        "[\"branch-office\"]",
        "Sites whose nodes never own the backups.",
    ),
    key(
        "backup.exclude_nodes",
        Kind::List,
        Default::EmptyList,
        "[\"node-1\"]",
        "Nodes that never own the backups, by name.",
    ),
    key(
        "backup.options",
        Kind::List,
        Default::EmptyList,
        "[\"repo1-s3-kms-key-id=alias/shop\"]",
        "Further options of pgBackRest for its configuration file, NAME=VALUE each. No secrets.",
    ),
    key(
        "backup.pgbackrest",
        Kind::Path,
        Default::Text("/usr/bin/pgbackrest"),
        "\"/usr/bin/pgbackrest\"",
        "The program.",
    ),
];
