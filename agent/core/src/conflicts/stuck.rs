//! Apply workers that give up at one transaction again and again, and what helps.

use super::Failure;
use crate::ids::{Lsn, NodeId};
use crate::status::{Finding, Health};
use crate::time::Mono;
use std::collections::BTreeMap;
use std::time::Duration;

/// pglogical tries again after 180 s at the latest: one that is silent for longer is over it.
const SILENT_MAX: Duration = Duration::from_secs(240);

/// Why the agent can't settle it by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// In words.
    pub why: String,
    /// What helps, where that is known.
    pub command: Option<String>,
}

/// An edge that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The last failure.
    pub failure: Failure,
    /// Whose changes they are, where the log says so.
    pub provider: Option<NodeId>,
    /// Since when it fails at this transaction.
    pub since: Mono,
    /// When it last did.
    pub last: Mono,
    /// How often it did.
    pub times: u32,
    /// Why the agent can't settle it by itself, where it has tried.
    pub unsettled: Option<Unsettled>,
}

/// The edges that stand still, by pglogical's number of the subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StuckEdges(BTreeMap<u32, Stuck>);

impl StuckEdges {
    /// Notes that a worker gave up. Says whether that is news.
    pub fn note(&mut self, failure: Failure, provider: Option<NodeId>, now: Mono) -> bool {
        let before = self.0.get(&failure.subscription);
        let same = before.filter(|stuck| place(&stuck.failure) == place(&failure));
        let (since, times) = same.map_or((now, 0), |stuck| (stuck.since, stuck.times));
        let unsettled = same.and_then(|stuck| stuck.unsettled.clone());
        let news = same.is_none();
        let stuck = Stuck {
            provider,
            since,
            last: now,
            times: times.saturating_add(1),
            unsettled,
            failure,
        };
        self.0.insert(stuck.failure.subscription, stuck);
        news
    }

    /// Forgets those that have got over it: `applied` says how far a node's changes have been
    /// applied here.
    pub fn settle(&mut self, now: Mono, applied: impl Fn(NodeId) -> Option<Lsn>) {
        self.0.retain(|_, stuck| {
            let commit = stuck.failure.commit.map(|commit| commit.lsn);
            let passed = stuck.provider.and_then(&applied).zip(commit);
            now.since(stuck.last) < SILENT_MAX && passed.is_none_or(|(at, commit)| at <= commit)
        });
    }

    /// The one whose changes are a node's.
    #[must_use]
    pub fn of(&self, provider: NodeId) -> Option<&Stuck> {
        self.0
            .values()
            .find(|stuck| stuck.provider == Some(provider))
    }

    /// All of them, by pglogical's number of the subscription.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Stuck)> {
        self.0.iter().map(|(number, stuck)| (*number, stuck))
    }

    /// Notes why one can't be settled by the agent, or that nothing is in the way of that.
    pub fn note_unsettled(&mut self, subscription: u32, why: Option<Unsettled>) {
        if let Some(stuck) = self.0.get_mut(&subscription) {
            stuck.unsettled = why;
        }
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What status says. `names` tells what a node is called, `held` how much WAL it holds back
    /// for this one, in words.
    #[must_use]
    pub fn findings(
        &self,
        now: Mono,
        names: &dyn Fn(NodeId) -> String,
        held: &dyn Fn(NodeId) -> Option<String>,
    ) -> Vec<Finding> {
        let one = |stuck: &Stuck| {
            let name = stuck.provider.map(names);
            let held = stuck.provider.and_then(held);
            Finding {
                severity: Health::Critical,
                code: "apply_stuck".to_owned(),
                text: text(stuck, name.as_deref(), held.as_deref(), now),
                command: command(stuck, name.as_deref()),
            }
        };
        self.0.values().map(one).collect()
    }
}

/// What makes two failures the same.
fn place(failure: &Failure) -> (Option<Lsn>, &str) {
    let commit = failure.commit.map(|commit| commit.lsn);
    // Without a transaction it is the words that say what fails.
    let words = if commit.is_some() {
        ""
    } else {
        &failure.message
    };
    (commit, words)
}

fn text(stuck: &Stuck, name: Option<&str>, held: Option<&str>, now: Mono) -> String {
    let failure = &stuck.failure;
    let whose = name.unwrap_or("another node");
    let action = failure.action.as_deref().unwrap_or("a change");
    let mut text = format!("changes of {whose} don't get through: {action}");
    if let Some(relation) = &failure.relation {
        text += &format!(" in {relation}");
    }
    if let Some(commit) = failure.commit {
        text += &format!(" of transaction {} (commit {})", commit.xid, commit.lsn);
    }
    text += &format!(
        " has failed {} times in {} s: {}",
        stuck.times,
        now.since(stuck.since).as_secs(),
        failure.message
    );
    if !failure.detail.is_empty() {
        text += &format!(": {}", failure.detail);
    }
    if let Some(Unsettled { why, .. }) = &stuck.unsettled {
        text += &format!("; it isn't settled by itself: {why}");
    }
    if let Some(held) = held {
        text += &format!("; {whose} holds back {held} for it");
    }
    text
}

/// By SQLSTATE: what to set right here, and the way past it.
fn command(stuck: &Stuck, name: Option<&str>) -> String {
    let failure = &stuck.failure;
    let known = stuck.unsettled.as_ref().and_then(|u| u.command.as_deref());
    let by_state = match failure.sqlstate.as_str() {
        "23505" => {
            "change the row here that has the value already, and the same on all other nodes"
        }
        "42P01" | "3F000" => "make the table here as it is there",
        "42703" | "42804" | "22P02" => "alter the table here to what it is there",
        "42501" => "give the mesh's role its rights back",
        state if state.starts_with("23") || state == "P0001" => {
            "make the row here satisfy the constraint or trigger, or correct those"
        }
        _ => "set right what the message says",
    };
    let first = known.unwrap_or(by_state);
    match (failure.commit, name) {
        (Some(commit), Some(name)) => format!(
            "{first}; or give the transaction up, after an export: pgaa-agent skip-transaction \
             {name} {}",
            commit.lsn
        ),
        _ => format!("{first}; more in the server's log"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Commit, Stamp};
    use super::*;
    use uuid::Uuid;

    fn failure(lsn: u64) -> Failure {
        Failure {
            logged: 0,
            subscription: 7,
            sqlstate: "23505".to_owned(),
            message: "duplicate key value violates unique constraint \"u_mail_key\"".to_owned(),
            detail: "Key (mail)=(x) already exists.".to_owned(),
            action: Some("INSERT".to_owned()),
            relation: Some("public.u".to_owned()),
            commit: Some(Commit {
                lsn: Lsn(lsn),
                xid: 744,
                at: Stamp(0),
                action: 2,
                origin: 3,
            }),
        }
    }

    #[test]
    fn a_stuck_worker_is_named_until_it_has_passed() {
        let provider = NodeId(Uuid::from_u128(2));
        let mut edges = StuckEdges::default();
        assert!(edges.note(failure(100), Some(provider), Mono(1_000)));
        assert!(!edges.note(failure(100), Some(provider), Mono(6_000)));
        edges.settle(Mono(6_000), |_| Some(Lsn(90)));
        let found = edges.findings(Mono(8_000), &|_| "db2".to_owned(), &|_| {
            Some("2.0 MB".to_owned())
        });
        assert_eq!(
            found[0].text,
            "changes of db2 don't get through: INSERT in public.u of transaction 744 (commit 0/64) \
             has failed 2 times in 7 s: duplicate key value violates unique constraint \
             \"u_mail_key\": Key (mail)=(x) already exists.; db2 holds back 2.0 MB for it"
        );
        assert!(
            found[0]
                .command
                .ends_with("pgaa-agent skip-transaction db2 0/64")
        );
        // Another transaction begins to count anew.
        assert!(edges.note(failure(200), Some(provider), Mono(9_000)));
        assert_eq!(edges.of(provider).unwrap().times, 1);
        edges.settle(Mono(9_000), |_| Some(Lsn(201)));
        assert!(edges.is_empty());
        edges.note(failure(300), None, Mono(9_000));
        edges.settle(Mono(9_000 + 240_000), |_| None);
        assert!(edges.is_empty());
    }
}
