//! The world of a joiner, for the protocol in `pgaa_core::join`: its own server, the clock, and
//! the other members' agents. Makes no choices.

mod anew;
mod copy;

pub use anew::exports;

use super::node::Node;
use crate::events::Severity;
use crate::peer::PeerError;
use crate::postgres::Flush;
use anyhow::Context;
use futures_util::FutureExt;
use log::{debug, info};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, Ordinal};
use pgaa_core::join::{
    CallError, Done, Failure, Forward, Host, LeaseAnswer, LeaseAsk, Member, Problem, ServerFacts,
    StepAnswer, StepAsk, attempt,
};
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::record::JoinPhase;
use pgaa_core::roster::Roster;
use pgaa_core::status::Progress;
use pgaa_core::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two attempts of a member that is to be synchronised anew.
const PAUSE_ANEW: Duration = Duration::from_secs(20);

/// How long workers are given to start while pglogical's manager is woken.
const STARTED_WITHIN: Duration = Duration::from_secs(2);

/// Says that the plan wants this node to join.
pub fn start(node: &Node) {
    node.join_wanted.notify_one();
}

/// Says that the plan wants this node, a member, to be synchronised anew.
pub fn start_anew(node: &Node) {
    node.resync_wanted.store(true, Ordering::Relaxed);
    node.join_wanted.notify_one();
}

/// Says that the operator of this node, which is set apart, has given its contents up.
pub fn start_over(node: &Node) {
    node.rejoin_wanted.store(true, Ordering::Relaxed);
    node.join_wanted.notify_one();
}

/// How far the join has come, while there is one.
#[must_use]
pub fn progress(node: &Node) -> Option<Progress> {
    node.join_progress.borrow().clone()
}

/// Joins whenever it is wanted. Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let mut last = String::new();
    loop {
        node.join_wanted.notified().await;
        if node.rejoin_wanted.swap(false, Ordering::Relaxed) {
            node.join_problems.send_replace(Vec::new());
            if let Err(error) = anew::give_up(&node).await {
                let failure = failed(error);
                note(&node, "this node stays set apart", &failure, &mut last);
                continue;
            }
        }
        match node.knowledge.life().stage {
            Stage::Founding | Stage::Joining(_) | Stage::Resyncing => {}
            // What the plan wanted while this node joined does not count.
            Stage::Ready if node.resync_wanted.swap(false, Ordering::Relaxed) => {}
            Stage::Single | Stage::Ready | Stage::Leaving | Stage::Left => continue,
        }
        let ended = attempt(&Joiner(&node)).await;
        node.join_progress.send_replace(None);
        match ended {
            Ok(()) => {
                last.clear();
                node.join_problems.send_replace(Vec::new());
            }
            Err(failure) => {
                // A member that can't be synchronised anew serves meanwhile: its gate must not be
                // shut again and again.
                if node.knowledge.life().stage == Stage::Ready {
                    let what = "this node can't be synchronised anew now, and serves on";
                    note(&node, what, &failure, &mut last);
                    sleep(PAUSE_ANEW).await;
                    node.join_problems.send_replace(Vec::new());
                } else {
                    note(&node, "joining starts over", &failure, &mut last);
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Tells of a failed attempt: once in the events, and in `status` for as long as it stays so.
fn note(node: &Node, what: &str, failure: &Failure, last: &mut String) {
    let text = format!("{what}: {failure}");
    node.join_problems.send_if_modified(|problems| {
        let untold = problems.is_empty();
        if untold {
            problems.push(Problem {
                text: text.clone(),
                command: "pgaa-agent events".to_owned(),
            });
        }
        untold
    });
    if text != *last {
        node.event(Severity::Warning, "join_failed", text.clone());
        *last = text;
    }
}

/// What the own server is like, as a joiner's or a member's.
pub async fn facts(node: &Node, joins: bool) -> anyhow::Result<ServerFacts> {
    let mut facts = node.postgres.join_facts(joins).await?;
    let data_dir = &node.settings.postgres.data_dir;
    // A number that can't be had is no reason against a join.
    facts.free_bytes = nix::sys::statvfs::statvfs(data_dir)
        .ok()
        .map(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    Ok(facts)
}

/// One node that joins.
struct Joiner<'a>(&'a Arc<Node>);

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure(format!("{:#}", error.into()))
}

/// A refusal is final, but for one that says "later".
fn call_error(error: &PeerError) -> CallError {
    if let PeerError::Refused { refusal, .. } = error
        && refusal.code != "later"
    {
        return CallError::Refused(refusal.to_string());
    }
    CallError::Unreachable(error.to_string())
}

impl Joiner<'_> {
    fn dsn(&self, member: &Member) -> Done<String> {
        super::reconciler::dsn(self.0, member.node, member.postgres).map_err(failed)
    }
}

impl Host for Joiner<'_> {
    fn me(&self) -> NodeId {
        self.0.id()
    }

    fn epoch(&self) -> Done<DataEpoch> {
        let epoch = self.0.local.borrow().epoch;
        epoch.ok_or_else(|| Failure::new("the database is not prepared"))
    }

    fn stage(&self) -> Stage {
        self.0.knowledge.life().stage
    }

    fn enter(&self, phase: JoinPhase) -> Done<()> {
        self.0
            .knowledge
            .enter(Stage::Joining(phase))
            .map_err(failed)?;
        info!("joining: {}", phase.word());
        Ok(())
    }

    fn roster(&self) -> Done<Roster> {
        let roster = self.0.knowledge.roster();
        roster.ok_or_else(|| Failure::new("this node is in no cluster"))
    }

    fn merge(&self, theirs: &Roster) -> Done<()> {
        let merged = self.0.knowledge.merge(theirs, self.0.clocks.now());
        merged.map(|_| ()).map_err(failed)
    }

    fn take_ordinal(&self, free: Ordinal) -> Done<()> {
        let taken = self.0.knowledge.live(|life| life.ordinal = Some(free));
        taken.map(|_| ()).map_err(failed)
    }

    fn ordinal(&self) -> Option<Ordinal> {
        self.0.knowledge.life().ordinal
    }

    fn reach(&self) -> BTreeMap<NodeId, Reach> {
        self.0.knowledge.reach(self.0.clocks.mono())
    }

    fn replaces(&self) -> Option<String> {
        self.0.settings.node.replaces.clone()
    }

    fn show(&self, problems: Vec<Problem>) {
        self.0.join_problems.send_replace(problems);
    }

    fn remark(&self, remark: Problem) {
        let text = format!("{}; {}", remark.text, remark.command);
        self.0.event(Severity::Warning, "join_remark", text);
    }

    fn now(&self) -> Mono {
        self.0.clocks.mono()
    }

    async fn sleep(&self, time: Duration) {
        sleep(time).await;
    }

    async fn reached(&self, point: &'static str) {
        debug!("joining: {point}");
        crate::failpoint::reached(point).await;
    }

    async fn lease(
        &self,
        (member, address): (NodeId, SocketAddr),
        ask: LeaseAsk,
    ) -> Result<LeaseAnswer, CallError> {
        let answer = self.0.peers.lease(member, address, ask).await;
        answer.map_err(|error| call_error(&error))
    }

    async fn step(
        &self,
        (member, address): (NodeId, SocketAddr),
        ask: StepAsk,
    ) -> Result<StepAnswer, CallError> {
        let began = self.0.clocks.mono();
        let what = format!("{:?}", ask.step);
        let answer = self.0.peers.join_step(member, address, ask).await;
        let took = self.0.clocks.mono().since(began);
        debug!("joining: {took:?} for {} on {}", what, member.short());
        answer.map_err(|error| call_error(&error))
    }

    async fn forget(&self, member: NodeId) -> Done<()> {
        let forgotten = super::membership::forget(self.0, member, false).await;
        let told = forgotten.map_err(failed)?;
        self.0.event(Severity::Warning, "replaced", told);
        Ok(())
    }

    async fn facts(&self) -> Done<ServerFacts> {
        facts(self.0, true).await.map_err(failed)
    }

    async fn clear(&self) -> Done<()> {
        self.0.postgres.drop_all_edges().await.map_err(failed)
    }

    fn given_up(&self) -> bool {
        self.0.knowledge.life().renew
    }

    async fn renew(&self) -> Done<()> {
        anew::renew(self.0).await.map_err(failed)
    }

    async fn copy(&self, source: &Member) -> Done<Lsn> {
        let dsn = self.dsn(source)?;
        copy::copy(self.0, source, dsn).await.map_err(failed)
    }

    async fn subscribe(&self, name: &str, to: &Member, forward: Forward) -> Done<()> {
        let dsn = self.dsn(to)?;
        let sql = &self.0.postgres;
        let made = sql.create_subscription_disabled(name, &dsn, forward);
        made.await.map(|_| ()).map_err(failed)
    }

    async fn start(&self, name: &str, at: Lsn) -> Done<()> {
        let sql = &self.0.postgres;
        sql.enable_at(name, at).await.map_err(failed)?;
        let started = sql.start_workers(&[name], STARTED_WITHIN).await;
        started.map(|_| ()).map_err(failed)
    }

    async fn revive(&self, names: &[String]) -> Done<()> {
        let sql = &self.0.postgres;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for missing in sql.wake_workers(&names).await.map_err(failed)? {
            sql.kick(&missing).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn stop(&self, name: &str) -> Done<Lsn> {
        let sql = &self.0.postgres;
        sql.disable(&[name]).await.map_err(failed)?;
        sql.wait_until_stopped(name).await.map_err(failed)?;
        sql.origin_progress(name).await.map_err(failed)
    }

    async fn hand_over(&self, through: &str, starts: &BTreeMap<String, Lsn>) -> Done<()> {
        let sql = &self.0.postgres;
        sql.hand_over(through, starts).await.map_err(failed)?;
        let streams: Vec<&str> = starts.keys().map(String::as_str).chain([through]).collect();
        let started = sql.start_workers(&streams, STARTED_WITHIN).await;
        started.map(|_| ()).map_err(failed)
    }

    async fn heartbeats(&self) -> Done<BTreeMap<NodeId, (DataEpoch, u64)>> {
        self.0.postgres.heartbeats().await.map_err(failed)
    }

    async fn adopt_tables(&self, tables: BTreeSet<String>) -> Done<()> {
        for table in &tables {
            let adopted = self.0.postgres.add_table(table, false).await;
            adopted.map_err(failed)?;
        }
        own_sequences(self.0).await.map_err(failed)
    }

    fn resync(&self) -> Done<()> {
        self.0.knowledge.enter(Stage::Resyncing).map_err(failed)?;
        let text = "this node has lost what it needs next: its gate is shut, and once its own \
                    changes have arrived everywhere it is synchronised anew";
        self.0.event(Severity::Warning, "resyncing", text);
        Ok(())
    }

    fn reopen(&self) -> Done<()> {
        let ready = self.0.knowledge.enter(Stage::Ready);
        ready.map(|_| ()).map_err(failed)
    }

    async fn shut(&self) -> Done<()> {
        anew::shut(self.0).await.map_err(failed)
    }

    async fn fence(&self) -> Done<(u64, Lsn)> {
        let number = self.0.beat(Flush::Now).await.map_err(failed)?;
        let position = self.0.postgres.insert_position().await.map_err(failed)?;
        Ok((number, position))
    }

    async fn confirmed(&self, member: &Member) -> Done<Option<Lsn>> {
        let confirmed = anew::confirmed(self.0, (member.node, member.epoch)).await;
        confirmed.map_err(failed)
    }

    async fn export(&self) -> Done<()> {
        anew::export(self.0).await.map_err(failed)
    }

    async fn linked(&self) {
        // What the plan said of an earlier attempt does not count; it says it again.
        let _ = self.0.join_linked.notified().now_or_never();
        while self.stage() != Stage::Ready {
            tokio::select! {
                () = self.0.join_linked.notified() => return,
                () = sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    async fn ready(&self) {
        while self.stage() != Stage::Ready {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sequences that the source had in step came with its values: this node gives its own.
async fn own_sequences(node: &Node) -> anyhow::Result<()> {
    let ordinal = node.knowledge.life().ordinal;
    let ordinal = ordinal.context("this node has no ordinal yet")?;
    node.postgres.take_own_values(ordinal).await?;
    Ok(())
}
