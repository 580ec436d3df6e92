//! A transaction that stops at a unique column here, because another row has the value: the newer
//! of the two rows stays, the other goes. Every node that meets the two does the same, and both rows
//! are compared on all nodes afterwards.
//!
//! pglogical settles this by itself for an INSERT only, and stands still at an UPDATE for ever.

use super::skip::{Edge, edge};
use crate::daemon::node::Node;
use crate::daemon::rows::answer;
use crate::events::Severity;
use crate::peer::{CheckAnswer, CheckAsk};
use anyhow::{Context, bail, ensure};
use pgaa_core::conflicts::stuck::{Stuck, StuckEdges};
use pgaa_core::conflicts::{Commit, Failure};
use pgaa_core::ids::{Lsn, NodeId};
use pgaa_core::policy::ConflictResolution;
use pgaa_core::rows::{
    Incoming, Mended, NamedBy, OLDER_RIVAL, Repair, Stamp, Suspect, key_of, outlives,
};
use pgaa_core::verify::Key;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// SQLSTATE of a unique violation.
const UNIQUE_VIOLATION: &str = "23505";

/// A transaction that wrote more than this is not looked through: bytes, rows with the value.
const BYTES_MAX: u64 = 256 << 20;
const ROWS_MAX: usize = 1_000;

/// How often a row that changes meanwhile is looked at again.
const TRIES: u32 = 5;

/// Settles what it can for as long as the agent runs: once each time a worker has failed.
pub async fn run(node: Arc<Node>) {
    let mut stuck = node.stuck.subscribe();
    let mut tried: BTreeSet<(u32, Lsn, u32)> = BTreeSet::new();
    loop {
        let edges = at_unique_columns(&mut stuck);
        tried.retain(|(subscription, ..)| edges.iter().any(|(number, _)| number == subscription));
        for (subscription, edge) in edges {
            let Some((provider, commit)) = edge.provider.zip(edge.failure.commit) else {
                continue;
            };
            if !tried.insert((subscription, commit.lsn, edge.times)) {
                continue;
            }
            let why = match make_way(&node, &edge.failure, (provider, commit)).await {
                Ok(()) => None,
                Err(error) => Some(format!("{error:#}")),
            };
            node.stuck.send_if_modified(|stuck| {
                stuck.note_unsettled(subscription, why);
                false
            });
        }
        if stuck.changed().await.is_err() {
            return;
        }
    }
}

fn at_unique_columns(stuck: &mut watch::Receiver<StuckEdges>) -> Vec<(u32, Stuck)> {
    let edges = stuck.borrow_and_update();
    let mut found: Vec<(u32, Stuck)> = edges
        .iter()
        .map(|(number, edge)| (number, edge.clone()))
        .collect();
    found.retain(|(_, edge)| edge.failure.sqlstate == UNIQUE_VIOLATION);
    found
}

/// Takes the older of each two rows away, and has the worker try again.
async fn make_way(
    node: &Arc<Node>,
    failure: &Failure,
    (provider, commit): (NodeId, Commit),
) -> anyhow::Result<()> {
    let policy = node.settings.policy.conflict_resolution;
    ensure!(
        policy == ConflictResolution::LastUpdateWins,
        "cluster.conflict_resolution isn't last_update_wins, and only that says which row is right"
    );
    let edge = edge(node, provider)?;
    let incoming = incoming(node, &edge, (failure, commit)).await?;
    ensure!(
        !incoming.rows.is_empty(),
        "none of the rows that it writes has the value"
    );
    let referenced = node.postgres.is_referenced(&incoming.table).await?;
    ensure!(
        !referenced,
        "other tables refer to {}, and their rows would lose what they refer to",
        incoming.table
    );
    let arrives = Stamp {
        at_us: commit.at.0,
        author: provider,
    };
    settle(node, &incoming, arrives).await?;
    Ok(node.postgres.kick(&edge.subscription).await?)
}

/// What the transaction writes to the table where it stops.
async fn incoming(
    node: &Node,
    edge: &Edge,
    (failure, commit): (&Failure, Commit),
) -> anyhow::Result<Incoming> {
    let relation = failure.relation.clone();
    let relation = relation.context("the server's log doesn't name the table")?;
    let directory = node.settings.paths.state_dir.join("skipped");
    crate::durable::make_directory(&directory, 0o700)?;
    let file = directory.join(format!("{}-{}.being-read", edge.provider, commit.xid));
    edge.source
        .read_transaction(&edge.slot, (commit.lsn, commit.xid), &file)
        .await
        .with_context(|| format!("{} can't tell what the transaction holds", edge.provider))?;
    let detail = failure.detail.clone();
    let work = move || {
        let incoming = read(&file, &relation, &detail);
        std::fs::remove_file(&file)?;
        incoming
    };
    tokio::task::spawn_blocking(work).await?
}

fn read(path: &Path, relation: &str, detail: &str) -> anyhow::Result<Incoming> {
    let file = std::fs::File::open(path)?;
    ensure!(
        file.metadata()?.len() <= BYTES_MAX,
        "the transaction is too large to be looked through"
    );
    let mut incoming = Incoming::default();
    for line in BufReader::new(file).lines() {
        let line = line?;
        let json = line.splitn(3, '|').nth(2);
        let json = json.context("the provider wrote something else than a change")?;
        let text: String = serde_json::from_str(json)?;
        incoming.take(&text, relation, detail)?;
        ensure!(
            incoming.len() <= ROWS_MAX,
            "the transaction changes more than {ROWS_MAX} rows that may be meant"
        );
    }
    Ok(incoming)
}

async fn settle(node: &Arc<Node>, incoming: &Incoming, arrives: Stamp) -> anyhow::Result<()> {
    let table = &incoming.table;
    let names = node.postgres.key_columns(table).await?;
    let touched: Vec<Key> = incoming.touched(&names).into_iter().collect();
    let touched = node.postgres.canonical_keys(table, &touched).await?;
    let mut met = false;
    for row in &incoming.rows {
        let Some(key) = key_of(row, &names) else {
            continue;
        };
        for rival in node.postgres.rivals(table, (row, &key)).await? {
            // What the transaction itself takes away is in nobody's way.
            if !touched.contains(&rival) {
                let pair = Pair {
                    table,
                    key: &key,
                    rival: &rival,
                };
                pair.settle(node, arrives).await?;
                met = true;
            }
        }
    }
    ensure!(
        met,
        "the row that has the value was not found; an index on an expression, or on a part of the \
         table, says too little"
    );
    Ok(())
}

/// What became of the older row.
enum Taken {
    Away(Key),
    NotThere,
    Raced,
}

/// A row that arrives, and one that is here, with the same value of a unique column.
struct Pair<'a> {
    table: &'a str,
    key: &'a Key,
    rival: &'a Key,
}

impl Pair<'_> {
    async fn settle(&self, node: &Arc<Node>, arrives: Stamp) -> anyhow::Result<()> {
        // Whatever becomes of this, both are compared on all nodes.
        let named = [self.key, self.rival].map(|key| Suspect {
            table: self.table.to_owned(),
            key: key.clone(),
            cut: false,
            by: NamedBy::Conflict,
            deleted_us: None,
        });
        node.postgres.name_suspects(&named).await?;
        for _ in 0..TRIES {
            let gone = match self.take_away(node, arrives).await? {
                Taken::Away(gone) => gone,
                Taken::NotThere => return Ok(()),
                Taken::Raced => continue,
            };
            let text = format!(
                "two rows of {} have the same value of a unique column: {} of another node and {} \
                     here; the newer one stays, {} goes: select * from pgaa.repairs",
                self.table,
                self.key.join(", "),
                self.rival.join(", "),
                gone.join(", "),
            );
            node.event(Severity::Warning, "unique_settled", text);
            node.rows_named.notify_one();
            return Ok(());
        }
        bail!("the rows change too fast; it is tried again")
    }

    /// Takes the older row away here.
    async fn take_away(&self, node: &Arc<Node>, arrives: Stamp) -> anyhow::Result<Taken> {
        let keys = vec![self.key.clone(), self.rival.clone()];
        let CheckAnswer::Seen(looked, seen) =
            answer(node, self.table, CheckAsk::Look(keys)).await?
        else {
            bail!("the rows could not be looked at");
        };
        let held = |place: usize| seen.get(place).and_then(|one| one.row);
        let Some(there) = held(1) else {
            return Ok(Taken::NotThere);
        };
        let stays = outlives((Some(arrives), self.key), (there.stamp, self.rival));
        let (gone, row) = match stays {
            true => (self.rival, there),
            false => {
                let own = held(0);
                (
                    self.key,
                    own.context("the row that is older isn't here yet")?,
                )
            }
        };
        let repair = Repair {
            key: gone.clone(),
            seen: Some(row.token),
            right: None,
            rule: OLDER_RIVAL.to_owned(),
            looked,
        };
        let done = answer(node, self.table, CheckAsk::Mend(vec![repair])).await?;
        let CheckAnswer::Mended(outcomes) = done else {
            bail!("the row could not be taken away");
        };
        match outcomes.first() {
            Some(Mended::Done) => Ok(Taken::Away(gone.clone())),
            Some(Mended::Refused(why)) => bail!("{why}"),
            Some(Mended::Raced | Mended::Blocked(_)) | None => Ok(Taken::Raced),
        }
    }
}
