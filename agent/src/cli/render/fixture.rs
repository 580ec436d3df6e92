//! One report with a bit of everything, and one of a node that waits to found a cluster.

use pgaa_core::backup::repository::{BackupSet, StanzaContents, gaps, windows};
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict};
use pgaa_core::conflicts::report::ConflictsReport;
use pgaa_core::ids::{ClusterId, Lsn, NodeId, Ordinal};
use pgaa_core::observed::{Reach, SettingDrift};
use pgaa_core::record::{EdgeState, Endpoints, JoinPhase, Versions};
use pgaa_core::rows::RowsView;
use pgaa_core::state::NodeState;
use pgaa_core::status::*;
use pgaa_core::time::Wall;
use uuid::Uuid;

/// 2026-11-21 00:38:09 UTC.
pub const NOW: Wall = Wall(1_795_221_489_000);

/// The node number `n`.
#[must_use]
pub fn node(n: u8) -> NodeId {
    NodeId(Uuid::from_u128(
        0x1111_1111_2222_4333_8444_5555_5555_5500 + u128::from(n),
    ))
}

fn clock(verdict: ClockVerdict, offset_us: i64, error_us: u64) -> ClockReading {
    ClockReading {
        verdict,
        cause: ClockCause::None,
        source: ClockSource::Chrony,
        offset_us,
        error_us: Some(error_us),
    }
}

fn member(n: u8, state: NodeState, reach: Reach, age_ms: u64) -> MemberReport {
    let address = |port: u16| format!("10.0.0.1{n}:{port}").parse().unwrap();
    let endpoints = Endpoints {
        grpc: address(7432),
        gossip: address(7432),
        postgres: address(5432),
    };
    MemberReport {
        node: node(n),
        name: format!("node-{n}"),
        site: String::new(),
        ordinal: Some(Ordinal(n.into())),
        state: Some(state),
        phase: (state == NodeState::Joining).then_some(JoinPhase::Copying),
        reach,
        local: n == 1,
        endpoints: Some(endpoints),
        versions: Versions {
            agent: "0.1.0".into(),
            postgres: 150_020,
            pglogical: "2.4.2".into(),
        },
        clock: match n {
            3 => clock(ClockVerdict::Drifting, 1_250_000, 1_400_000),
            n => clock(ClockVerdict::Synchronized, i64::from(n) * -200, 6_200),
        },
        gate_open: state == NodeState::Ready,
        wal: Lsn(0x1_016B_3748),
        age_ms,
    }
}

fn edge(subscriber: u8, provider: u8, state: EdgeState) -> EdgeRow {
    EdgeRow {
        subscriber: node(subscriber),
        provider: node(provider),
        state,
        desired: EdgeState::Replicating,
        lag_ms: (state == EdgeState::Replicating).then_some(10 * i64::from(provider) + 2),
        detail: if state == EdgeState::Down {
            "could not connect to server:\nConnection refused\x1b[2J".into()
        } else {
            String::new()
        },
        age_ms: if subscriber == 1 { 0 } else { 3_000 },
        retained_bytes: (provider == 1 && subscriber == 3).then_some(5_300_000_000),
        budget_bytes: (provider == 1).then_some(9_000_000_000),
        full_in_s: (provider == 1 && subscriber == 3).then_some(5_400),
    }
}

/// Three nodes: one ready, one ready elsewhere, one joining and out of reach.
#[must_use]
pub fn mesh() -> StatusReport {
    let findings =
        vec![
        Finding {
            severity: Health::Degraded,
            code: "clock".into(),
            text: "node-3's clock is 1.3 s ahead of this node's; last-update-wins rests on clocks \
                   that agree".into(),
            command: "systemctl status chrony; chronyc sources".into(),
        },
        Finding {
            severity: Health::Critical,
            code: "plain_sequence".into(),
            text: "key public.orders.id is fed by the plain sequence public.orders_id_seq: two \
                   nodes will give the same value, and one of the two rows is lost".into(),
            command: "pgaa-agent sequences fix".into(),
        },
    ];
    use EdgeState::{Connecting, Down, Missing, Replicating};
    StatusReport {
        schema_version: SCHEMA_VERSION,
        health: Health::Critical,
        answered_by: answered_by(),
        cluster: Some(ClusterReport {
            id: ClusterId(Uuid::from_u128(7)),
            name: "shop".into(),
            database: "shop".into(),
            founder: node(1),
            ready: 2,
            members: 3,
            max_nodes: 16,
            conflict_resolution: "last_update_wins".into(),
        }),
        node: LocalReport {
            state: NodeState::Ready,
            because: "every edge is seen alive both ways".into(),
            gate_open: true,
            ordinal: Some(Ordinal(1)),
            certificate_expires: Some(Wall(NOW.0 + 89 * 86_400_000)),
            drifts: vec![SettingDrift {
                name: "max_worker_processes".into(),
                value: "8".into(),
                needed: "at least 40".into(),
                source: "ALTER SYSTEM (postgresql.auto.conf:3)".into(),
                needs_restart: true,
            }],
            restart_pending: vec!["max_wal_senders".into()],
            clock: clock(ClockVerdict::Synchronized, -200, 6_200),
            ..local()
        },
        members: vec![
            member(1, NodeState::Ready, Reach::Up, 0),
            member(2, NodeState::Ready, Reach::Up, 3_000),
            member(3, NodeState::Joining, Reach::Down, 150_000),
        ],
        edges: vec![
            edge(1, 2, Replicating),
            edge(1, 3, Down),
            edge(2, 1, Replicating),
            edge(2, 3, Connecting),
            edge(3, 1, Missing),
            edge(3, 2, Replicating),
        ],
        clock: ClocksReport::default(),
        conflicts: ConflictsReport::default(),
        tables: TablesReport {
            replicated: vec!["public.customers".into(), "public.items".into()],
            waiting: vec![TableWaiting {
                table: "public.orders".into(),
                lacking: ["node-2".to_owned()].into(),
                differing: [].into(),
                unknown: ["node-3".to_owned()].into(),
                because: "node-2 lacks it; node-3 could not be asked".into(),
            }],
        },
        rows: RowsView {
            waiting: 12,
            checked: true,
            mended: 340,
            blocked: None,
            problems: Vec::new(),
        },
        waiting_on: vec![WaitingOn::new(
            "peer",
            "node-3 has not answered for 150 s; if it is gone for ever: pgaa-agent forget node-3",
        )],
        findings,
        doing: vec!["make the slot for node-3".into()],
        founding: None,
        proofs: None,
        backup: None,
    }
}

fn answered_by() -> AnsweredBy {
    AnsweredBy {
        node: node(1),
        name: "node-1".into(),
        at: NOW,
        version: "0.1.0".into(),
        pid: 4711,
    }
}

fn local() -> LocalReport {
    LocalReport {
        state: NodeState::Forming,
        phase: None,
        progress: None,
        because: "peers answer, none is a member".into(),
        since: Wall(NOW.0 - 300_000),
        gate_open: false,
        ordinal: None,
        generation: 1,
        postgres_error: None,
        drifts: vec![],
        restart_pending: vec![],
        clock: ClockReading::default(),
        withheld: None,
        certificate_expires: None,
    }
}

/// A mesh in which the third clock is 5 s ahead, and its source sees nothing of it.
#[must_use]
pub fn odd_clock() -> StatusReport {
    let mut report = mesh();
    let at = |n: u8| {
        if n == 3 {
            5_000_000
        } else {
            i64::from(n) * 120
        }
    };
    let pair = |from: u8, to: u8| ClockRow {
        from: node(from),
        to: node(to),
        offset_us: at(to) - at(from),
        error_us: 410,
        round_trip_us: 390,
        age_ms: u64::from(from) * 900,
        tolerance_us: 50_000,
    };
    report.clock = ClocksReport {
        error_us_max: 100_000,
        strict: true,
        odd: [node(3)].into(),
        rows: vec![pair(1, 2), pair(1, 3), pair(2, 1), pair(2, 3), pair(3, 1)],
    };
    report.members[2].clock = clock(ClockVerdict::Synchronized, 300, 6_200);
    report.findings[0] = Finding {
        severity: Health::Critical,
        code: "clock_odd".into(),
        text: "the clock of node-3 is 5.0 s ahead of the 2 others that agree (give or take 0.4 \
               ms): its writes win over newer ones; its own time source (chrony) calls it right \
               within 6.2 ms, and must be wrong"
            .into(),
        command: "on node-3: chronyc -n sources; chronyc makestep".into(),
    };
    report
}

/// A node that copies what it joins.
#[must_use]
pub fn joining() -> StatusReport {
    let part = |name: &str, bytes_done, bytes_total| ProgressPart {
        name: name.to_owned(),
        bytes_done,
        bytes_total,
        done: bytes_done == bytes_total,
    };
    let mut report = forming();
    report.founding = None;
    report.waiting_on = vec![WaitingOn::new("join", "the join (copying)")];
    report.node.state = NodeState::Joining;
    report.node.phase = Some(JoinPhase::Copying);
    report.node.because = "joining: copying".into();
    report.node.progress = Some(Progress {
        what: "copying public.orders".into(),
        bytes_done: 700_000_000,
        bytes_total: 2_800_000_000,
        bytes_per_s: 100_000_000,
        parts: vec![
            part("public.customers", 600_000_000, 600_000_000),
            part("public.orders", 100_000_000, 2_000_000_000),
            part("public.items", 0, 200_000_000),
        ],
    });
    report
}

/// A node that waits for two others to found a cluster with.
#[must_use]
pub fn forming() -> StatusReport {
    StatusReport {
        schema_version: SCHEMA_VERSION,
        health: Health::Degraded,
        answered_by: answered_by(),
        cluster: None,
        node: local(),
        members: vec![],
        edges: vec![],
        clock: ClocksReport::default(),
        conflicts: ConflictsReport::default(),
        tables: TablesReport::default(),
        rows: RowsView::default(),
        waiting_on: vec![WaitingOn::new("peers", "2 of 3 nodes are there")],
        findings: vec![],
        doing: vec![],
        founding: Some(FoundingReport {
            expect: 3,
            present: vec!["node-1".into(), "node-2".into()],
            missing: vec!["10.0.0.13:7432".into()],
            since: Wall(NOW.0 - 300_000),
            promised_to: Some(node(2)),
        }),
        proofs: None,
        backup: None,
    }
}

/// What a node has in the repository: these backups, by the hours before now at which they ended.
#[must_use]
pub fn stanza(n: u8, backups: &[(BackupKind, i64)]) -> StanzaContents {
    let taken = |(kind, hours_ago): &(BackupKind, i64)| {
        let stopped_at = Wall(NOW.0 - hours_ago * 3_600_000);
        BackupSet {
            label: format!("{hours_ago}-hours-ago"),
            kind: *kind,
            started_at: Wall(stopped_at.0 - 60_000),
            stopped_at,
            wal_start: Lsn(1),
            wal_stop: Lsn(2),
            size_bytes: 52_000_000_000,
            stored_bytes: 9_100_000_000,
            damaged_pages: false,
            node_name: format!("node-{n}"),
            gap_since: None,
        }
    };
    StanzaContents {
        stanza: Stanza::new(node(n), 1),
        backups: backups.iter().map(taken).collect(),
        wal_last: None,
        archived_at: None,
        problem: None,
        running: false,
    }
}

/// What two nodes have there: the second took over, eight hours after the first was last heard of.
#[must_use]
pub fn repository() -> Vec<StanzaContents> {
    use BackupKind::{Differential, Full};
    let mut former = stanza(2, &[(Full, 96), (Differential, 72)]);
    former.archived_at = Some(Wall(NOW.0 - 56 * 3_600_000));
    let mut own = stanza(1, &[(Full, 48), (Differential, 24)]);
    own.archived_at = Some(Wall(NOW.0 - 30_000));
    own.backups[1].damaged_pages = true;
    vec![former, own]
}

/// A mesh whose first node owns the backups, and archives.
#[must_use]
pub fn backed_up() -> StatusReport {
    let windows = windows(&repository());
    let backup = BackupReport {
        repository: "s3 shop-backups at s3.example.com, /pgaa/shop".into(),
        owners: vec![BackupOwner {
            node: node(1),
            name: "node-1".into(),
            epoch: 2,
            since: Wall(NOW.0 - 49 * 3_600_000),
            covered: true,
            reachable: true,
            archived_until: Some(Wall(NOW.0 - 30_000)),
            problem: String::new(),
        }],
        archiving: Some(Wall(NOW.0 - 49 * 3_600_000)),
        waiting_bytes: 0,
        waiting_since: None,
        waiting_bytes_max: Some(20_000_000_000),
        running: Some(RunningBackup {
            kind: BackupKind::Differential,
            since: Wall(NOW.0 - 120_000),
            percent: 42,
        }),
        last: Some(LastBackup {
            label: "24-hours-ago".into(),
            kind: BackupKind::Differential,
            node_name: "node-1".into(),
            stopped_at: Wall(NOW.0 - 24 * 3_600_000),
            stored_bytes: 9_100_000_000,
        }),
        next: Some((BackupKind::Full, Wall(NOW.0 + 24 * 3_600_000))),
        gaps: gaps(&windows),
        windows,
        unable: None,
        unread: None,
    };
    StatusReport {
        backup: Some(backup),
        ..mesh()
    }
}

/// The same with a repository that refuses the key, a claim of another node that is gone, and
/// nothing that is known of what there is.
#[must_use]
pub fn backups_in_trouble() -> StatusReport {
    let mut report = backed_up();
    if let Some(backup) = &mut report.backup {
        let refused = "pgbackrest archive-push: HTTP request failed with 403 (Forbidden) [39]; see that \
                       backup.key_id and backup.key_file are right";
        backup.owners[0].covered = false;
        backup.owners[0].problem = refused.into();
        backup.owners.push(BackupOwner {
            node: node(3),
            name: "node-3".into(),
            epoch: 1,
            covered: true,
            reachable: false,
            problem: String::new(),
            ..backup.owners[0].clone()
        });
        backup.waiting_bytes = 1_600_000_000;
        backup.waiting_since = Some(Wall(NOW.0 - 600_000));
        (backup.running, backup.last, backup.next) = (None, None, None);
        (backup.windows, backup.gaps) = (Vec::new(), Vec::new());
        backup.unread = Some(refused.into());
        backup.unable = Some("archive_command is set at /etc/x.conf:3, and stays as it is".into());
    }
    report.findings = vec![Finding {
        severity: Health::Degraded,
        code: "archive_failing".into(),
        text: "archiving fails since 600 s, 1525 MB of WAL wait, 19073 MB may: pgbackrest \
               archive-push: HTTP request failed with 403 (Forbidden) [39]; see that backup.key_id and \
               backup.key_file are right".into(),
        command: "pgaa-agent backup status".into(),
    }];
    report
}
