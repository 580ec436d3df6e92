//! The world of one joiner, for the real protocol: what `daemon::join` is to real servers.

use super::member::server_facts;
use super::postgres::{Server, Snapshot, Worker};
use super::wire::{Ask, Said};
use super::world::{Event, World};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, Ordinal};
use pgaa_core::join::{
    CallError, Done, Failure, Forward, Host, LeaseAnswer, LeaseAsk, Member, Problem, ServerFacts,
    StepAnswer, StepAsk,
};
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::record::JoinPhase;
use pgaa_core::roster::Roster;
use pgaa_core::time::Mono;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

/// How long a statement takes, ms.
const STATEMENT: (u64, u64) = (0, 20);
/// How long a part of the copy takes, ms, and how many there are.
const COPYING: (u64, u64) = (5, 600);
const PARTS: usize = 3;

/// One attempt of one node. Its futures are polled when the world says that something has moved.
pub struct Joiner {
    pub world: Arc<Mutex<World>>,
    pub node: usize,
    pub task: u64,
}

impl Joiner {
    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().unwrap_or_else(|dead| dead.into_inner());
        look(&mut world)
    }

    fn server<T>(&self, look: impl FnOnce(&mut Server) -> T) -> Done<T> {
        self.with(|world| {
            let server = &mut world.nodes[self.node].server;
            if server.up {
                Ok(look(server))
            } else {
                Err(Failure::new("no connection"))
            }
        })
    }

    async fn wait(&self, ms: u64) {
        let due = self.with(|world| {
            let due = world.now + ms;
            let (node, task) = (self.node, self.task);
            world.at(due, Event::Poll { node, task });
            due
        });
        poll_fn(|_| {
            if self.with(|world| world.now >= due) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    async fn busy(&self, (least, most): (u64, u64)) {
        let ms = self.with(|world| world.rng.random_range(least..=most));
        self.wait(ms).await;
    }

    async fn call(&self, to: NodeId, ask: Ask) -> Result<Said, CallError> {
        let number = self.with(|world| {
            let to = world.of(to)?;
            Some(world.ask((self.node, self.task), to, ask))
        });
        let Some(number) = number else {
            return Err(CallError::Refused("nobody has this address".to_owned()));
        };
        poll_fn(|_| match self.with(|world| world.result(number)) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        })
        .await
    }

    /// The provider of one of this node's subscriptions.
    fn provider(&self, name: &str) -> Done<usize> {
        let found = self.with(|world| world.names[self.node].iter().position(|have| have == name));
        found.ok_or_else(|| Failure(format!("{name} is no subscription of this node")))
    }

    fn number(&self, member: &Member) -> Done<usize> {
        let found = self.with(|world| world.of(member.node));
        found.ok_or_else(|| Failure(format!("{} is nobody", member.name)))
    }

    /// Does the copy still go on?
    fn copying(&self, source: usize) -> Done<()> {
        let both =
            self.with(|world| world.serves(self.node, source) && world.nodes[self.node].server.up);
        if both {
            Ok(())
        } else {
            Err(Failure::new("the copy was cut short"))
        }
    }

    /// The slot on the source, and what its snapshot shows. It takes its time, and is there even
    /// when nobody waits for it any more.
    async fn export(&self, source: usize) -> Done<Snapshot> {
        self.busy(STATEMENT).await;
        self.copying(source)?;
        let snapshot = self.with(|world| {
            world.drop_slot(source, self.node);
            let server = &mut world.nodes[source].server;
            let position = server.create_slot(self.node);
            server.snapshot(position)
        });
        self.reached("structured").await;
        Ok(snapshot)
    }
}

impl Host for Joiner {
    fn me(&self) -> NodeId {
        self.with(|world| world.nodes[self.node].id)
    }

    fn epoch(&self) -> Done<DataEpoch> {
        Ok(self.with(|world| world.nodes[self.node].epoch))
    }

    fn stage(&self) -> Stage {
        self.with(|world| world.nodes[self.node].agent.life.stage)
    }

    fn enter(&self, phase: JoinPhase) -> Done<()> {
        self.with(|world| world.enter(self.node, Stage::Joining(phase)));
        Ok(())
    }

    fn roster(&self) -> Done<Roster> {
        let roster = self.with(|world| world.nodes[self.node].agent.roster.clone());
        roster.ok_or_else(|| Failure::new("this node is in no cluster"))
    }

    fn merge(&self, theirs: &Roster) -> Done<()> {
        self.with(|world| world.merge(self.node, theirs));
        Ok(())
    }

    fn take_ordinal(&self, free: Ordinal) -> Done<()> {
        self.with(|world| {
            world.nodes[self.node].agent.life.ordinal = Some(free);
        });
        Ok(())
    }

    fn ordinal(&self) -> Option<Ordinal> {
        self.with(|world| world.nodes[self.node].agent.life.ordinal)
    }

    fn reach(&self) -> BTreeMap<NodeId, Reach> {
        self.with(|world| world.reach(self.node))
    }

    fn replaces(&self) -> Option<String> {
        None
    }

    fn show(&self, problems: Vec<Problem>) {
        self.with(|world| {
            for problem in problems {
                world.accuse(format!("nothing is wrong, and yet: {}", problem.text));
            }
        });
    }

    fn remark(&self, remark: Problem) {
        self.with(|world| world.accuse(format!("all servers are alike, and yet: {}", remark.text)));
    }

    fn now(&self) -> Mono {
        Mono(self.with(|world| world.now))
    }

    async fn sleep(&self, time: Duration) {
        self.wait(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            .await;
    }

    async fn reached(&self, point: &'static str) {
        self.with(|world| world.came_to(self.node, point));
        // A crash of this agent at this point ends the attempt here.
        self.wait(0).await;
    }

    async fn lease(
        &self,
        (member, _): (NodeId, SocketAddr),
        ask: LeaseAsk,
    ) -> Result<LeaseAnswer, CallError> {
        match self.call(member, Ask::Lease(ask)).await? {
            Said::Lease(answer) => Ok(*answer),
            Said::Step(_) => Err(CallError::Refused("of another version".to_owned())),
        }
    }

    async fn step(
        &self,
        (member, _): (NodeId, SocketAddr),
        ask: StepAsk,
    ) -> Result<StepAnswer, CallError> {
        match self.call(member, Ask::Step(ask)).await? {
            Said::Step(answer) => Ok(answer),
            Said::Lease(_) => Err(CallError::Refused("of another version".to_owned())),
        }
    }

    async fn forget(&self, _: NodeId) -> Done<()> {
        Err(Failure::new("this node takes nobody's place"))
    }

    async fn facts(&self) -> Done<ServerFacts> {
        self.busy(STATEMENT).await;
        self.server(|_| server_facts())
    }

    // No node of these stories is set apart.
    fn given_up(&self) -> bool {
        false
    }

    async fn renew(&self) -> Done<()> {
        Err(Failure::new("nothing was given up"))
    }

    async fn clear(&self) -> Done<()> {
        let edges = self.server(|server| {
            let subscriptions: Vec<usize> = server.subscriptions.keys().copied().collect();
            let slots: Vec<usize> = server.slots.keys().copied().collect();
            (subscriptions, slots)
        })?;
        for provider in edges.0 {
            self.busy(STATEMENT).await;
            self.server(|_| ())?;
            self.with(|world| world.drop_subscription(self.node, provider));
        }
        for subscriber in edges.1 {
            self.busy(STATEMENT).await;
            self.server(|_| ())?;
            self.with(|world| world.drop_slot(self.node, subscriber));
        }
        Ok(())
    }

    async fn copy(&self, source: &Member) -> Done<Lsn> {
        let from = self.number(source)?;
        self.with(|world| world.emptied(self.node));
        self.server(|server| {
            server.flush();
            server.rows.clear();
        })?;
        let snapshot = self.export(from).await?;
        for _ in 0..PARTS {
            self.busy(COPYING).await;
            self.copying(from)?;
        }
        self.server(|server| server.copy_in(&snapshot))?;
        self.reached("rows_copied").await;
        Ok(Lsn(snapshot.position))
    }

    async fn subscribe(&self, name: &str, to: &Member, forward: Forward) -> Done<()> {
        self.busy(STATEMENT).await;
        let provider = self.provider(name)?;
        if provider != self.number(to)? {
            return Err(Failure(format!("{name} is not the way to {}", to.name)));
        }
        self.server(|_| ())?;
        let made = self.with(|world| world.subscribe((self.node, provider), forward));
        made.map_err(Failure)
    }

    async fn start(&self, name: &str, at: Lsn) -> Done<()> {
        self.busy(STATEMENT).await;
        let provider = self.provider(name)?;
        self.server(|server| {
            let subscription = server.subscriptions.get_mut(&provider);
            let subscription = subscription.ok_or_else(|| Failure::new("no subscription"))?;
            subscription.progress = at.0;
            Ok::<(), Failure>(())
        })??;
        self.with(|world| world.enable(self.node, provider, true));
        Ok(())
    }

    async fn revive(&self, names: &[String]) -> Done<()> {
        self.busy(STATEMENT).await;
        for name in names {
            let provider = self.provider(name)?;
            let idle = self.server(|server| {
                let subscription = server.subscriptions.get(&provider);
                subscription
                    .is_some_and(|s| s.enabled && !matches!(s.worker, Worker::Running { .. }))
            })?;
            if idle {
                self.with(|world| world.restart_worker(self.node, provider, true));
            }
        }
        Ok(())
    }

    async fn stop(&self, name: &str) -> Done<Lsn> {
        self.busy(STATEMENT).await;
        let provider = self.provider(name)?;
        self.server(|_| ())?;
        // The worker applies what it has begun, and goes.
        self.busy(STATEMENT).await;
        self.server(|_| ())?;
        self.with(|world| world.enable(self.node, provider, false));
        self.busy(STATEMENT).await;
        // pg_replication_origin_progress flushes what it answers for.
        let progress = self.server(|server| {
            server.flush();
            server.subscriptions.get(&provider).map(|s| s.progress)
        })?;
        progress
            .filter(|progress| *progress > 0)
            .map(Lsn)
            .ok_or_else(|| Failure::new("nothing has been applied yet"))
    }

    async fn hand_over(&self, through: &str, starts: &BTreeMap<String, Lsn>) -> Done<()> {
        self.busy(STATEMENT).await;
        let through = self.provider(through)?;
        let mut places = Vec::new();
        for (name, start) in starts {
            places.push((self.provider(name)?, start.0));
        }
        self.server(|server| {
            server.flush();
            for (provider, start) in &places {
                let subscription = server.subscriptions.get_mut(provider);
                let subscription = subscription.ok_or_else(|| Failure::new("no subscription"))?;
                subscription.progress = *start;
            }
            if let Some(subscription) = server.subscriptions.get_mut(&through) {
                subscription.forward = Forward::Nothing;
            }
            Ok::<(), Failure>(())
        })??;
        self.with(|world| {
            for provider in places.iter().map(|place| place.0).chain([through]) {
                world.enable(self.node, provider, true);
            }
        });
        Ok(())
    }

    async fn heartbeats(&self) -> Done<BTreeMap<NodeId, (DataEpoch, u64)>> {
        let beats = self.server(|server| server.beats.clone())?;
        let known = |(node, number): (usize, u64)| {
            self.with(|world| (world.nodes[node].id, (world.nodes[node].epoch, number)))
        };
        Ok(beats.into_iter().map(known).collect())
    }

    async fn adopt_tables(&self, _: BTreeSet<String>) -> Done<()> {
        self.busy(STATEMENT).await;
        self.server(|_| ())
    }

    fn resync(&self) -> Done<()> {
        self.with(|world| world.enter(self.node, Stage::Resyncing));
        Ok(())
    }

    fn reopen(&self) -> Done<()> {
        self.with(|world| {
            world.count("reopened");
            world.enter(self.node, Stage::Ready);
        });
        Ok(())
    }

    async fn shut(&self) -> Done<()> {
        self.busy(STATEMENT).await;
        self.server(|server| server.gate_open = false)
    }

    async fn fence(&self) -> Done<(u64, Lsn)> {
        self.busy(STATEMENT).await;
        self.server(|_| ())?;
        let unlooked = || Failure("it has not looked yet".to_owned());
        let number = self
            .with(|world| world.beat(self.node, true))
            .ok_or_else(unlooked)?;
        Ok((number, Lsn(self.server(|server| server.end())?)))
    }

    async fn confirmed(&self, member: &Member) -> Done<Option<Lsn>> {
        self.busy(STATEMENT).await;
        let subscriber = self.number(member)?;
        let anew = self.with(|world| {
            let anew = world.slots_made_anew(self.node);
            anew.contains(&world.slots[subscriber][self.node])
        });
        let confirmed = self.server(|server| {
            let slot = server.slots.get(&subscriber);
            slot.map(|slot| Lsn(slot.confirmed))
        })?;
        Ok(confirmed.filter(|_| !anew))
    }

    async fn export(&self) -> Done<()> {
        self.busy(COPYING).await;
        self.with(|world| world.count("exported"));
        self.server(|_| ())
    }

    async fn linked(&self) {
        // A word on an earlier attempt doesn't count, as with the daemon.
        self.with(|world| world.nodes[self.node].agent.linked = false);
        loop {
            let over = self.with(|world| {
                let agent = &mut world.nodes[self.node].agent;
                std::mem::take(&mut agent.linked) || agent.life.stage == Stage::Ready
            });
            if over {
                return;
            }
            self.wait(50).await;
        }
    }

    async fn ready(&self) {
        while self.stage() != Stage::Ready {
            self.wait(20).await;
        }
    }
}
