//! A transaction that stops at a unique column here, because another row has the value: the newer
//! of the two rows stays, the other goes, unless rows refer to it. Every node that meets the two does
//! the same, and both rows are compared on all nodes afterwards.
//!
//! pglogical settles this by itself for an INSERT only, and stands still at an UPDATE for ever.

use super::skip::{Edge, edge};
use super::transaction;
use crate::daemon::circle::Circle;
use crate::daemon::node::Node;
use crate::daemon::rows::{answer, kept};
use crate::events::Severity;
use crate::peer::{CheckAnswer, CheckAsk};
use anyhow::{Context, bail, ensure};
use pgaa_core::conflicts::{Commit, Failure};
use pgaa_core::ids::NodeId;
use pgaa_core::policy::ConflictResolution;
use pgaa_core::rows::{
    Incoming, Mended, Moment, NamedBy, OLDER_RIVAL, Repair, Stamp, Suspect, key_of, outlives,
};
use pgaa_core::verify::Key;
use std::iter;
use std::sync::Arc;

/// A transaction that wrote more rows with the value than this is not looked through.
const ROWS_MAX: usize = 1_000;

/// How often a row that changes meanwhile is looked at again.
const TRIES: u32 = 5;

/// Takes the older of each two rows away, where no row refers to it, and has the worker try again.
pub(super) async fn make_way(
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
    let detail = failure.detail.clone();
    transaction::read(node, (edge, commit), move |lines| {
        let mut incoming = Incoming::default();
        for line in lines {
            incoming.take(&line?.text, &relation, &detail)?;
            ensure!(
                incoming.len() <= ROWS_MAX,
                "the transaction changes more than {ROWS_MAX} rows that may be meant"
            );
        }
        Ok(incoming)
    })
    .await
}

async fn settle(node: &Arc<Node>, incoming: &Incoming, arrives: Stamp) -> anyhow::Result<()> {
    let table = &incoming.table;
    let names = node.postgres.key_columns(table).await?;
    let touched: Vec<Key> = incoming.touched(&names).into_iter().collect();
    let touched = node.postgres.canonical_keys(table, &touched).await?;
    let (mut met, mut way) = (false, false);
    for row in &incoming.rows {
        let Some(key) = key_of(&row.values, &names) else {
            continue;
        };
        let mut rivals = node.postgres.rivals(table, (&row.values, &key)).await?;
        // What the transaction itself takes away is in nobody's way.
        rivals.retain(|rival| !touched.contains(rival));
        if !rivals.is_empty() {
            let meeting = Meeting {
                node,
                table,
                key: &key,
                rivals: &rivals,
                arrives,
                inserted: row.inserted,
            };
            way |= meeting.settle().await?;
            met = true;
        }
    }
    ensure!(
        met,
        "the row that has the value was not found; what a unique index says of generated columns \
         can't be looked up"
    );
    ensure!(
        way,
        "the row that arrives is the older one, and pglogical leaves it out by itself only where the \
         index is on columns"
    );
    Ok(())
}

/// A row that arrives, and those that are here with a value of a unique column that it has.
struct Meeting<'a> {
    node: &'a Arc<Node>,
    table: &'a str,
    key: &'a Key,
    rivals: &'a [Key],
    arrives: Stamp,
    inserted: bool,
}

/// The versions of rows that go.
type Older<'a> = Vec<(&'a Key, u32)>;

impl Meeting<'_> {
    /// Says whether there is nothing in the way any more. There may be while the row that arrives isn't
    /// here, and only newer ones are: an UPDATE of it is no longer done, an INSERT is.
    async fn settle(&self) -> anyhow::Result<bool> {
        // Whatever becomes of this, all of them are compared on all nodes.
        let keys = iter::once(self.key).chain(self.rivals);
        let named: Vec<Suspect> = keys.map(|key| self.suspect(key)).collect();
        self.node.postgres.name_suspects(&named).await?;
        for _ in 0..TRIES {
            let Some((looked, older)) = self.look().await? else {
                return Ok(false);
            };
            self.spare(&older).await?;
            if self.take_away(looked, &older).await? {
                self.tell(&older);
                self.node.rows_named.notify_one();
                return Ok(true);
            }
        }
        bail!("the rows change too fast; it is tried again")
    }

    fn suspect(&self, key: &Key) -> Suspect {
        Suspect {
            table: self.table.to_owned(),
            key: key.clone(),
            cut: false,
            by: NamedBy::Conflict,
            deleted_us: None,
        }
    }

    /// Which rows go: the one that arrives, where one that is here is newer; else those that are
    /// here. Where there is nothing yet of one that is inserted, those that are older go, and
    /// pglogical itself leaves it out as soon as it meets none but newer ones; `None` where it is
    /// left out already.
    async fn look(&self) -> anyhow::Result<Option<(Moment, Older<'_>)>> {
        let keys = iter::once(self.key).chain(self.rivals).cloned().collect();
        let CheckAnswer::Seen(looked, seen) =
            answer(self.node, self.table, CheckAsk::Look(keys)).await?
        else {
            bail!("the rows could not be looked at");
        };
        let mut held = seen.iter().map(|one| one.row);
        let own = held.next().flatten();
        let there = self.rivals.iter().zip(held);
        let there = there.filter_map(|(key, row)| Some((key, row?)));
        let (mut older, mut newer) = (Older::new(), false);
        for (key, row) in there {
            match outlives((Some(self.arrives), self.key), (row.stamp, key)) {
                true => older.push((key, row.token)),
                false => newer = true,
            }
        }
        match own {
            Some(own) if newer => older = vec![(self.key, own.token)],
            // An UPDATE of it is left out where it isn't.
            None if newer && (older.is_empty() || !self.inserted) => return Ok(None),
            Some(_) | None => {}
        }
        Ok(Some((looked, older)))
    }

    /// Fails where rows refer to one of them.
    async fn spare(&self, older: &Older<'_>) -> anyhow::Result<()> {
        let (circle, _) = Circle::gather(self.node);
        for (key, _) in older {
            match kept(&circle, self.table, key).await {
                Ok(None) => {}
                Ok(Some(kept)) => return Err(kept.into()),
                Err(failure) => bail!("whether rows refer to the older one isn't known: {failure}"),
            }
        }
        Ok(())
    }

    /// Takes them away here. Says whether that is done; else they have changed meanwhile.
    async fn take_away(&self, looked: Moment, older: &Older<'_>) -> anyhow::Result<bool> {
        let repair = |(key, token): &(&Key, u32)| Repair {
            key: (*key).clone(),
            seen: Some(*token),
            right: None,
            rule: OLDER_RIVAL.to_owned(),
            looked,
        };
        let repairs = older.iter().map(repair).collect();
        let done = answer(self.node, self.table, CheckAsk::Mend(repairs)).await?;
        let CheckAnswer::Mended(outcomes) = done else {
            bail!("the row could not be taken away");
        };
        let mut done = true;
        for outcome in outcomes {
            match outcome {
                Mended::Done => {}
                Mended::Refused(why) => bail!("{why}"),
                Mended::Raced | Mended::Blocked(_) => done = false,
            }
        }
        Ok(done)
    }

    fn tell(&self, gone: &Older<'_>) {
        if gone.is_empty() {
            return;
        }
        let list = |keys: &mut dyn Iterator<Item = &Key>| {
            let keys: Vec<String> = keys.map(|key| key.join(", ")).collect();
            keys.join("; ")
        };
        let text = format!(
            "rows of {} have the same value of a unique column: {} of another node and {} here; the \
             newer one stays, {} goes: select * from pgaa.repairs",
            self.table,
            self.key.join(", "),
            list(&mut self.rivals.iter()),
            list(&mut gone.iter().map(|(key, _)| *key)),
        );
        self.node.event(Severity::Warning, "unique_settled", text);
    }
}
