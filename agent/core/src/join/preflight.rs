//! What must be right before rows are copied: everything that is wrong is told at once.

use super::Failure;
use super::host::{Host, Member, Step, StepAnswer};
use super::leases::Held;
use futures_util::future::{try_join, try_join_all};
use std::collections::BTreeSet;

/// What one server is like, as far as a join asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// `server_version_num`.
    pub version_num: u32,
    /// The database's encoding, collation and character type: "UTF8, C.UTF-8, C.UTF-8".
    pub locale: String,
    /// The version of the collation that the operating system gives; empty where it has none.
    pub collation_version: String,
    /// The version by which the database's indexes on text were built, where it keeps one; of
    /// another member empty when its agent doesn't tell.
    pub collation_recorded: String,
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Bytes free where the data directory is, if that could be seen.
    pub free_bytes: Option<u64>,
    /// Replication slots that may still be made.
    pub slots_free: u32,
    /// Senders that may still start.
    pub senders_free: u32,
    /// Background workers that may still start.
    pub workers_free: u32,
    /// Is pg_walinspect there, or can it be created?
    pub wal_can_be_read: bool,
    /// The tables in the replication set "default".
    pub replicated: BTreeSet<String>,
    /// Transactions a new slot has to wait for, and for how long they have run: "pid 77 (app,
    /// psql), 1810 s".
    pub blockers: Vec<String>,
    /// Prepared transactions, which keep a new slot from ever being ready.
    pub prepared: Vec<String>,
    /// Extensions that the database uses (on a member), or that can be created (on a joiner).
    pub extensions: BTreeSet<String>,
}

/// One thing in the way of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What.
    pub text: String,
    /// What helps.
    pub command: String,
}

/// Copied rows need this much of their size on the source: indexes are built anew, and WAL is
/// written meanwhile.
const ROOM_PERCENT: u64 = 120;

/// Asks every member, and goes on only when nothing is in the way.
pub(super) async fn pass<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    members: &[Member],
) -> Result<(), Failure> {
    let theirs = try_join_all(members.iter().map(|m| facts_of(host, held, m)));
    let (own, theirs) = try_join(host.facts(), theirs).await?;
    told(host, judge(&own, source, &theirs))?;
    for remark in remarks(&own, source, &theirs) {
        host.remark(remark);
    }
    Ok(())
}

/// The same for a member that is synchronised anew: its edges, which are still there, go before
/// their successors come.
pub(super) async fn pass_anew<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    members: &[Member],
) -> Result<(), Failure> {
    let mut own = host.facts().await?;
    let mut theirs = try_join_all(members.iter().map(|m| facts_of(host, held, m))).await?;
    let edges = u32::try_from(members.len()).unwrap_or(u32::MAX);
    for (facts, edges) in theirs
        .iter_mut()
        .map(|(_, facts)| (facts, 1))
        .chain([(&mut own, edges)])
    {
        facts.slots_free = facts.slots_free.saturating_add(edges);
        facts.senders_free = facts.senders_free.saturating_add(edges);
        facts.workers_free = facts.workers_free.saturating_add(edges);
    }
    let mut problems = judge(&own, source, &theirs);
    for prepared in &own.prepared {
        problems.push(Problem {
            text: format!("a prepared transaction here is on no other member yet: {prepared}"),
            command: "COMMIT PREPARED or ROLLBACK PREPARED on this node".to_owned(),
        });
    }
    told(host, problems)
}

/// Tells all of it at once, here and in `status`.
fn told<H: Host>(host: &H, problems: Vec<Problem>) -> Result<(), Failure> {
    host.show(problems.clone());
    if problems.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
    Err(Failure(texts.join("; ")))
}

pub(super) async fn facts_of<'a, H: Host>(
    host: &H,
    held: &Held,
    member: &'a Member,
) -> Result<(&'a Member, ServerFacts), Failure> {
    match held.step(host, member, Step::Facts).await? {
        StepAnswer::Facts(facts) => Ok((member, *facts)),
        StepAnswer::Done
        | StepAnswer::Absent
        | StepAnswer::Position(_)
        | StepAnswer::Heartbeat(_)
        | StepAnswer::Origins(_) => Err(Failure(format!("{} is of another version", member.name))),
    }
}

/// Everything in the way of a join from `source`.
#[must_use]
pub fn judge(
    own: &ServerFacts,
    source: &Member,
    members: &[(&Member, ServerFacts)],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (member, facts) in members {
        headroom(&member.name, facts, &mut problems);
        if member.node == source.node {
            copied_from(own, &member.name, facts, &mut problems);
        }
    }
    for (name, free) in [
        ("max_replication_slots", own.slots_free),
        ("max_wal_senders", own.senders_free),
        ("max_worker_processes", own.workers_free),
    ] {
        if usize::try_from(free).is_ok_and(|free| free < members.len()) {
            problems.push(Problem {
                text: format!(
                    "{name} leaves room for {free} of {} members on this node",
                    members.len()
                ),
                command: "raise cluster.max_nodes, then pgaa-agent restart".to_owned(),
            });
        }
    }
    entering(members, &mut problems);
    problems
}

/// What is in nobody's way, and should be known.
#[must_use]
pub fn remarks(
    own: &ServerFacts,
    source: &Member,
    members: &[(&Member, ServerFacts)],
) -> Vec<Problem> {
    let of_source = members
        .iter()
        .filter(|(member, _)| member.node == source.node);
    let differs = of_source.filter(|(_, theirs)| {
        own.locale == theirs.locale && own.collation_version != theirs.collation_version
    });
    let remark = |(member, theirs): &(&Member, ServerFacts)| Problem {
        text: format!(
            "text sorts by collation version {:?} on this node, and by {:?} on {}: the same query \
             may give its rows in another order",
            own.collation_version, theirs.collation_version, member.name
        ),
        command: "run the same release of the operating system on all nodes, or a database with \
                  the locale C.UTF-8"
            .to_owned(),
    };
    differs.map(remark).collect()
}

fn headroom(name: &str, facts: &ServerFacts, problems: &mut Vec<Problem>) {
    for (setting, free) in [
        ("max_replication_slots", facts.slots_free),
        ("max_wal_senders", facts.senders_free),
        ("max_worker_processes", facts.workers_free),
    ] {
        if free == 0 {
            problems.push(Problem {
                text: format!("{setting} of {name} leaves no room for another node"),
                command: format!("raise cluster.max_nodes on {name}, then pgaa-agent restart"),
            });
        }
    }
    for prepared in &facts.prepared {
        problems.push(Problem {
            text: format!(
                "{name} has a prepared transaction, and no slot is ready before it ends: {prepared}"
            ),
            command: format!("COMMIT PREPARED or ROLLBACK PREPARED on {name}"),
        });
    }
    for blocker in &facts.blockers {
        problems.push(Problem {
            text: format!(
                "{name} has an old transaction, and no slot is ready before it ends: {blocker}"
            ),
            command: format!("SELECT pg_terminate_backend(<pid>) on {name}, or wait for it"),
        });
    }
}

/// What the source and the copy must have in common.
fn copied_from(own: &ServerFacts, name: &str, theirs: &ServerFacts, problems: &mut Vec<Problem>) {
    let mut problem = |text: String, command: &str| {
        problems.push(Problem {
            text,
            command: command.to_owned(),
        });
    };
    if own.version_num / 10_000 < theirs.version_num / 10_000 {
        problem(
            format!(
                "PostgreSQL here is {}, older than {} on {name}",
                own.version_num / 10_000,
                theirs.version_num / 10_000
            ),
            "install the newer PostgreSQL on this node",
        );
    }
    if own.locale != theirs.locale {
        problem(
            format!(
                "the database here is {}, on {name} {}",
                own.locale, theirs.locale
            ),
            "make the database with the same encoding and locale",
        );
    }
    let recorded = &theirs.collation_recorded;
    if !recorded.is_empty() && *recorded != theirs.collation_version {
        problem(
            format!(
                "the indexes on text of {name} were built by collation version {recorded:?}, and \
                 its operating system sorts by {:?}: they may lead to wrong rows, and hold \
                 duplicates that no copy can",
                theirs.collation_version
            ),
            &format!(
                "REINDEX DATABASE <database>, then ALTER DATABASE <database> REFRESH COLLATION \
                 VERSION, on {name}"
            ),
        );
    }
    if !theirs.wal_can_be_read {
        problem(
            format!("{name} lacks the extension pg_walinspect"),
            "install postgresql-contrib of PostgreSQL 15 or newer there",
        );
    }
    let lacking: Vec<&str> = theirs
        .extensions
        .difference(&own.extensions)
        .map(String::as_str)
        .collect();
    if !lacking.is_empty() {
        problem(
            format!(
                "{name} uses extensions that are not installed here: {}",
                lacking.join(", ")
            ),
            "install their packages on this node",
        );
    }
    let needed = theirs.database_bytes.saturating_mul(ROOM_PERCENT) / 100;
    if let Some(free) = own.free_bytes
        && free < needed
    {
        const MIB: u64 = 1024 * 1024;
        problem(
            format!(
                "the copy of {name} needs {} MiB here, and {} MiB are free",
                needed / MIB,
                free / MIB
            ),
            "give this node a larger disk",
        );
    }
}

/// A table that has entered the replication set of some members only: rows of the others that
/// have gone to the source would be copied by nobody.
fn entering(members: &[(&Member, ServerFacts)], problems: &mut Vec<Problem>) {
    let all: BTreeSet<&String> = members
        .iter()
        .flat_map(|(_, facts)| &facts.replicated)
        .collect();
    for table in all {
        let lacking: Vec<&str> = members
            .iter()
            .filter(|(_, facts)| !facts.replicated.contains(table))
            .map(|(member, _)| member.name.as_str())
            .collect();
        if !lacking.is_empty() {
            problems.push(Problem {
                text: format!(
                    "table {table} is not replicated by {} yet",
                    lacking.join(", ")
                ),
                command: "pgaa-agent status, on a member, says why".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DataEpoch, NodeId};
    use uuid::Uuid;

    fn member(number: u128) -> Member {
        Member {
            node: NodeId(Uuid::from_u128(number)),
            epoch: DataEpoch(Uuid::from_u128(number + 100)),
            name: format!("db{number}"),
            postgres: ([127, 0, 0, 1], 5432).into(),
        }
    }

    fn sound() -> ServerFacts {
        ServerFacts {
            version_num: 150_020,
            locale: "UTF8, C.UTF-8, C.UTF-8".to_owned(),
            database_bytes: 1_000,
            free_bytes: Some(1_000_000),
            slots_free: 10,
            senders_free: 10,
            workers_free: 10,
            wal_can_be_read: true,
            ..ServerFacts::default()
        }
    }

    #[test]
    fn nothing_is_in_the_way_of_like_servers() {
        let (a, b) = (member(1), member(2));
        assert!(judge(&sound(), &a, &[(&a, sound()), (&b, sound())]).is_empty());
    }

    #[test]
    fn indexes_of_another_collation_are_refused_and_another_order_is_remarked() {
        let a = member(1);
        let sorted_by = |recorded: &str, now: &str| ServerFacts {
            collation_recorded: recorded.to_owned(),
            collation_version: now.to_owned(),
            ..sound()
        };
        let told = |own: ServerFacts, source: ServerFacts| {
            let theirs = [(&a, source)];
            (judge(&own, &a, &theirs), remarks(&own, &a, &theirs))
        };
        let (problems, remarked) = told(sorted_by("2.36", "2.36"), sorted_by("2.31", "2.36"));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].text.contains("db1") && problems[0].text.contains("2.31"));
        assert!(
            problems[0]
                .command
                .contains("REFRESH COLLATION VERSION, on db1")
        );
        assert!(remarked.is_empty());
        let (problems, remarked) = told(sorted_by("2.36", "2.36"), sorted_by("2.41", "2.41"));
        assert!(problems.is_empty());
        assert_eq!(remarked.len(), 1);
        // Text that sorts by its bytes has no version. An older agent tells of one alone.
        for (own, source) in [(("", ""), ("", "")), (("2.36", "2.36"), ("", "2.36"))] {
            let (problems, remarked) = told(sorted_by(own.0, own.1), sorted_by(source.0, source.1));
            assert!(problems.is_empty() && remarked.is_empty());
        }
    }

    #[test]
    fn everything_is_told_at_once() {
        let (a, b) = (member(1), member(2));
        let own = ServerFacts {
            version_num: 140_010,
            locale: "LATIN1, C, C".to_owned(),
            free_bytes: Some(1_100),
            slots_free: 1,
            ..sound()
        };
        let source = ServerFacts {
            slots_free: 0,
            blockers: vec!["pid 77 (app, psql), 1810 s".to_owned()],
            extensions: BTreeSet::from(["postgis".to_owned()]),
            ..sound()
        };
        let other = ServerFacts {
            prepared: vec!["two_phase_1".to_owned()],
            replicated: BTreeSet::from(["public.items".to_owned()]),
            ..sound()
        };
        let problems = judge(&own, &a, &[(&a, source), (&b, other)]);
        let texts: Vec<&str> = problems.iter().map(|p| p.text.as_str()).collect();
        let expected = [
            "max_replication_slots of db1 leaves no room for another node",
            "db1 has an old transaction, and no slot is ready before it ends: pid 77 (app, psql), 1810 s",
            "PostgreSQL here is 14, older than 15 on db1",
            "the database here is LATIN1, C, C, on db1 UTF8, C.UTF-8, C.UTF-8",
            "db1 uses extensions that are not installed here: postgis",
            "the copy of db1 needs 0 MiB here, and 0 MiB are free",
            "db2 has a prepared transaction, and no slot is ready before it ends: two_phase_1",
            "max_replication_slots leaves room for 1 of 2 members on this node",
            "table public.items is not replicated by db1 yet",
        ];
        assert_eq!(texts, expected);
        assert!(problems.iter().all(|problem| !problem.command.is_empty()));
    }
}
