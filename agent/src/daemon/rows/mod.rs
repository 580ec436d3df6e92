//! The row check: names what may differ, compares it on all members, mends what does.
//!
//! The choices are made in `pgaa_core::rows`. Each node sees to the rows that it has named itself;
//! two that see to the same row do the same.

mod mesh;
mod orphans;
mod referrers;
mod wish;

pub use referrers::kept;
pub use wish::treat;

use super::circle::Circle;
use super::node::Node;
use super::origins;
use crate::events::Severity;
use crate::peer::{CheckAnswer, CheckAsk};
use crate::postgres::Named;
use log::warn;
use mesh::Mesh;
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::plan::follower_of_the_gone;
use pgaa_core::policy::ConflictResolution;
use pgaa_core::record::NodeRecord;
use pgaa_core::roster::Roster;
use pgaa_core::rows::{Fate, Moment, NamedBy, Round, Suspect, check, fate};
use pgaa_core::state::NodeState;
use pgaa_core::verify::{Failure, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks at whether something was named.
const REST: Duration = Duration::from_secs(2);

/// Between two looks at whether the database is prepared: its deletes are remembered before the
/// first of them.
const BEFORE: Duration = Duration::from_millis(50);

/// Between two rounds while rows are open.
const SOON: Duration = Duration::from_millis(200);

/// Between two rounds while all that is open waits for people.
const FOR_PEOPLE: Duration = Duration::from_secs(5);

/// After a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A check that fails for no longer than this is nobody's business: a node restarts, a line is
/// cut for a moment.
const FAILING_MAX: Duration = Duration::from_secs(10);

/// Rows of one round.
const ROUND_MAX: i64 = 5_000;

/// Rows in the list. With more, whole tables are compared instead.
const NAMED_MAX: i64 = 1_000_000;

/// This node's part of another's check.
pub async fn answer(node: &Node, table: &str, ask: CheckAsk) -> anyhow::Result<CheckAnswer> {
    let sql = &node.postgres;
    Ok(match ask {
        CheckAsk::Look(keys) => {
            // Before the look: what is ordered by it is valid from then on.
            let (looked, senders) = (moment(node), origins::read(node).await?);
            let (seen, named) = sql
                .row_versions(node.id(), table, (&keys, &senders))
                .await?;
            if named > 0 {
                node.rows_named.notify_one();
            }
            CheckAnswer::Seen(looked, seen)
        }
        CheckAsk::Begins(keys) => CheckAnswer::Keys(sql.keys_that_begin(table, &keys).await?),
        CheckAsk::Values(versions) => CheckAnswer::Values(sql.row_values(table, &versions).await?),
        CheckAsk::Mend(repairs) => {
            let me = (node.id(), || moment(node));
            CheckAnswer::Mended(sql.mend(me, table, &repairs).await?)
        }
        CheckAsk::Referrers(key) => CheckAnswer::Referrers(sql.referrers(table, &key).await?),
    })
}

fn moment(node: &Node) -> Moment {
    Moment {
        run: node.run,
        at_ms: node.clocks.mono().0,
    }
}

/// Checks for as long as this node is a member.
pub async fn run(node: Arc<Node>) {
    let mut state = State {
        remembered: false,
        look: true,
        told: orphans::Told::default(),
    };
    let mut failing = None;
    loop {
        let pause = match turn(&node, &mut state).await {
            Ok(pause) => {
                failing = None;
                node.rows.send_if_modified(|view| view.set_blocked(None));
                pause
            }
            Err(error) => {
                let now = node.clocks.mono();
                let since = *failing.get_or_insert(now);
                if now.since(since) > FAILING_MAX {
                    let why = Some(format!("{error:#}"));
                    node.rows.send_if_modified(|view| view.set_blocked(why));
                }
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = node.rows_named.notified() => state.look = true,
        }
    }
}

/// What is known from turn to turn.
struct State {
    /// Own deletes are remembered.
    remembered: bool,
    /// Something may be in the list.
    look: bool,
    /// Which rows that refer to nothing were told.
    told: orphans::Told,
}

/// One turn. Returns how long to rest.
async fn turn(node: &Arc<Node>, state: &mut State) -> anyhow::Result<Duration> {
    let life = node.knowledge.life();
    let facts = node.last_facts();
    let prepared = facts.is_some_and(|f| f.pglogical.is_some() && f.epoch.is_some());
    if life.stage == Stage::Left || life.quarantined.is_some() {
        return Ok(REST);
    }
    if !prepared {
        return Ok(BEFORE);
    }
    if !state.remembered {
        remember(node, life.stage).await?;
        (state.remembered, state.look) = (true, true);
    }
    let begun = node.clocks.mono();
    let leaves = life.stage == Stage::Leaving;
    let deletes = node
        .postgres
        .name_deletes((!leaves).then_some(begun))
        .await?;
    state.remembered = !deletes.unknown;
    // One that leaves goes when a look says that nothing is left.
    state.look |= deletes.named > 0 || leaves;
    state.look |= life.stage == Stage::Ready && by_schedule(node).await?;
    if !(life.stage == Stage::Ready || leaves) || !state.look {
        return Ok(REST);
    }
    let named = node.postgres.suspects(ROUND_MAX).await?;
    let waiting = waiting(node, named.len()).await?;
    node.rows.send_if_modified(|view| view.set_waiting(waiting));
    let settled = named.is_empty() && state.remembered;
    node.rows_settled.send_replace(settled.then_some(begun));
    if named.is_empty() {
        state.look = false;
        if node.conflicts.borrow().gap.is_some() {
            super::conflicts::close_gap(node, None).await?;
        }
        return Ok(if leaves { SOON } else { REST });
    }
    let (circle, left_out) = Circle::gather(node);
    if let Some(why) = missing(node, &left_out).or_else(|| trailing(node)) {
        anyhow::bail!("{why}");
    }
    let (wholes, rows): (Vec<Named>, Vec<Named>) = named.into_iter().partition(Named::is_whole);
    let stands = rows.is_empty() || round(node, (&circle, &mut state.told), rows).await?;
    // Rows that wait for people keep no table waiting.
    if stands && !wholes.is_empty() {
        whole_table(node, &circle, wholes).await?;
        return Ok(SOON);
    }
    Ok(if stands { FOR_PEOPLE } else { SOON })
}

/// Makes sure that own deletes are remembered.
async fn remember(node: &Node, stage: Stage) -> anyhow::Result<()> {
    // Nobody writes here before the node is ready; what a founder held before is nobody else's.
    let gap = node
        .postgres
        .remember_deletes(stage != Stage::Ready)
        .await?;
    if gap {
        let text = "what this node deleted before is not known: all tables are compared";
        node.event(Severity::Warning, "deletes_unknown", text);
        name_all(node, NamedBy::Delete).await?;
    }
    Ok(())
}

/// Has all replicated tables compared as a whole.
pub async fn name_all(node: &Node, by: NamedBy) -> anyhow::Result<()> {
    node.postgres.name_all_tables(by).await?;
    node.rows_named.notify_one();
    Ok(())
}

/// Has all tables compared as a whole when it is time, on one node of the mesh.
async fn by_schedule(node: &Node) -> anyhow::Result<bool> {
    let every_ms = i64::try_from(node.settings.compare_every.as_millis())?;
    let ready = node.knowledge.with_roster(|roster| {
        let mut records = roster.records.values();
        records
            .find(|r| r.state == NodeState::Ready)
            .map(|r| r.node)
    });
    if every_ms == 0 || ready.flatten() != Some(node.id()) {
        return Ok(false);
    }
    let now = node.clocks.wall();
    let last = node.store.compared()?;
    let due = last.is_some_and(|last| now.0.saturating_sub(last.0) >= every_ms);
    if due {
        name_all(node, NamedBy::Verify).await?;
    }
    // A clock that was set back must not put it off for ever.
    if due || last.is_none_or(|last| last > now) {
        node.store.set_compared(now)?;
    }
    Ok(due)
}

/// How many rows are named. Too many are given up for their tables.
async fn waiting(node: &Node, taken: usize) -> anyhow::Result<u64> {
    if i64::try_from(taken).is_ok_and(|taken| taken < ROUND_MAX) {
        return Ok(u64::try_from(taken)?);
    }
    let count = node.postgres.suspects_count(NAMED_MAX + 1).await?;
    if count > NAMED_MAX.unsigned_abs() {
        let tables = node.postgres.give_up_suspects().await?;
        let text = format!(
            "more than {NAMED_MAX} rows may differ: whole tables are compared instead: {}",
            tables.join(", ")
        );
        node.event(Severity::Warning, "rows_not_named", text);
    }
    Ok(count)
}

/// Who must be asked and can't be, so that nothing can be said of any row.
fn missing(node: &Node, left_out: &[String]) -> Option<String> {
    let reach = node.knowledge.reach(node.clocks.mono());
    let answers = |record: &NodeRecord| {
        let asked = matches!(record.state, NodeState::Ready | NodeState::Leaving);
        asked && (record.node == node.id() || reach.get(&record.node) == Some(&Reach::Up))
    };
    let waits = node.knowledge.with_roster(|roster| {
        let mut records = roster.records.values();
        records.any(|record| record.is_compared() && !answers(record))
    });
    match waits {
        Some(false) => None,
        Some(true) | None => Some(left_out.join("; ")),
    }
}

/// What a node that is gone has sent may still be applied somewhere, behind no fence: a row that is the
/// same everywhere now needn't be so then, and what was known of it would be gone.
fn trailing(node: &Node) -> Option<String> {
    let trails = |roster: &Roster| {
        let (follower, gone) = follower_of_the_gone(roster)?;
        let follower = roster.name_of(follower);
        Some(format!(
            "{follower} still subscribes to {}, which is gone; see pgaa-agent status on {follower}",
            roster.name_of(gone)
        ))
    };
    node.knowledge.with_roster(trails).flatten()
}

/// Checks rows that were named. Says whether all that is still open waits for people.
async fn round(
    node: &Arc<Node>,
    (circle, told_before): (&Circle<'_>, &mut orphans::Told),
    named: Vec<Named>,
) -> anyhow::Result<bool> {
    let replicated = node.status.borrow().tables.replicated.clone();
    let (named, gone): (Vec<Named>, Vec<Named>) = named
        .into_iter()
        .partition(|one| replicated.contains(&one.table));
    // Of tables that are replicated no more.
    node.postgres.settle_suspects(&gone).await?;
    let (cut, exact): (Vec<Named>, Vec<Named>) = named.into_iter().partition(|one| one.cut);
    name_beginnings(node, circle, &cut).await?;
    let exact = canonical(node, exact).await?;
    let suspects = by_table(&exact);
    let mends = node.settings.policy.conflict_resolution == ConflictResolution::LastUpdateWins;
    let rounds = check(&Mesh(circle), &suspects, mends).await.map_err(told)?;
    orphans::tell(node, &rounds, told_before).await;
    conclude(node, exact, &rounds).await?;
    Ok(rounds.values().any(|round| !round.problems.is_empty())
        && rounds.values().all(Round::stands))
}

fn by_table(named: &[Named]) -> BTreeMap<String, Vec<Key>> {
    let mut tables: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for one in named {
        tables
            .entry(one.table.clone())
            .or_default()
            .push(one.key.clone());
    }
    tables
}

/// Those whose keys are written as the server writes them. The others are named anew, so that each
/// row is in the list but once.
async fn canonical(node: &Node, named: Vec<Named>) -> anyhow::Result<Vec<Named>> {
    let mut right: BTreeMap<(String, Key), Key> = BTreeMap::new();
    for (table, keys) in by_table(&named) {
        let canonical = node.postgres.canonical_keys(&table, &keys).await?;
        let pairs = keys.into_iter().zip(canonical);
        right.extend(pairs.map(|(key, canonical)| ((table.clone(), key), canonical)));
    }
    let is_right = |one: &Named| right.get(&(one.table.clone(), one.key.clone()));
    let (kept, odd): (Vec<Named>, Vec<Named>) = named
        .into_iter()
        .partition(|one| is_right(one) == Some(&one.key));
    let anew: Vec<Suspect> = odd
        .iter()
        .filter_map(|one| Some(suspect(&one.table, is_right(one)?, NamedBy::Conflict)))
        .collect();
    node.postgres.name_suspects(&anew).await?;
    node.postgres.settle_suspects(&odd).await?;
    Ok(kept)
}

/// Names all rows, on any member, whose keys begin like these, instead of them.
async fn name_beginnings(node: &Node, circle: &Circle<'_>, cut: &[Named]) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    for (table, beginnings) in &by_table(cut) {
        for of in circle.nodes() {
            let ask = CheckAsk::Begins(beginnings.clone());
            let CheckAnswer::Keys(keys) = circle.check(of, table, ask).await.map_err(told)? else {
                return Err(told(circle.unfit(of)));
            };
            found.extend(
                keys.iter()
                    .map(|key| suspect(table, key, NamedBy::Conflict)),
            );
        }
    }
    let found: Vec<Suspect> = found.into_iter().collect();
    node.postgres.name_suspects(&found).await?;
    Ok(node.postgres.settle_suspects(cut).await?)
}

fn suspect(table: &str, key: &Key, by: NamedBy) -> Suspect {
    Suspect {
        table: table.to_owned(),
        key: key.clone(),
        cut: false,
        by,
        deleted_us: None,
    }
}

fn told(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}

/// Takes what is equal from the list, and tells what was mended.
async fn conclude(
    node: &Node,
    checked: Vec<Named>,
    rounds: &BTreeMap<String, Round>,
) -> anyhow::Result<()> {
    let (mut settled, mut over, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for one in checked {
        let round = rounds.get(&one.table);
        let equal = round.filter(|round| round.equal.contains(&one.key));
        let becomes = equal.map(|round| fate(one.ordered, round.awaited.contains(&one.key)));
        match becomes {
            Some(Fate::Goes) => settled.push(one),
            Some(Fate::OrdersOver) => over.push(one),
            Some(Fate::Stays) | None => open.push(one),
        }
    }
    node.postgres.settle_suspects(&settled).await?;
    node.postgres.end_orders(&over).await?;
    node.postgres.put_off_suspects(&open).await?;
    let mut problems = Vec::new();
    for (table, round) in rounds {
        if !round.mended.is_empty() {
            let count = round.mended.len();
            let text = format!(
                "{count} rows of {table} were not the same on all nodes and were made so: \
                 select * from pgaa.repairs"
            );
            node.event(Severity::Warning, "rows_mended", text);
        }
        let one = |(key, why): (&Key, &String)| format!("{table} {}: {why}", key.join(", "));
        problems.extend(round.problems.iter().map(one));
        let met = round
            .rivals
            .iter()
            .map(|key| suspect(table, key, NamedBy::Repair));
        node.postgres
            .name_suspects(&met.collect::<Vec<_>>())
            .await?;
    }
    let mended: usize = rounds.values().map(|round| round.mended.len()).sum();
    node.rows
        .send_if_modified(|view| view.conclude(mended, problems));
    Ok(())
}

/// Compares a table as a whole, and names the rows that differ.
async fn whole_table(
    node: &Arc<Node>,
    circle: &Circle<'_>,
    wholes: Vec<Named>,
) -> anyhow::Result<()> {
    let Some(one) = wholes.into_iter().next() else {
        return Ok(());
    };
    let replicated = node.status.borrow().tables.replicated.contains(&one.table);
    if !replicated || circle.nodes().len() < 2 {
        return Ok(node.postgres.settle_suspects(&[one]).await?);
    }
    // What was written before it was named may still be on its way to a node that holds nothing of it:
    // until it arrives there all look the same.
    circle.fence().await.map_err(told)?;
    let compared = super::verify::on_its_own(circle, &one.table, one.named_us()).await;
    let verdict = compared.map_err(told)?;
    let different = verdict.different.into_iter().map(|row| row.key);
    let named: Vec<Suspect> = different
        .chain(verdict.undecided)
        .map(|key| suspect(&one.table, &key, NamedBy::Verify))
        .collect();
    if !named.is_empty() {
        warn!("{}: {} rows differ", one.table, named.len());
    }
    for part in named.chunks(usize::try_from(ROUND_MAX)?) {
        node.postgres.name_suspects(part).await?;
    }
    match verdict.cut_short {
        true => node.postgres.put_off_suspects(&[one]).await?,
        false => node.postgres.settle_suspects(&[one]).await?,
    }
    Ok(())
}
