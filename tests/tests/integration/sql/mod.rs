//! What the agent does in SQL, done to real servers without an agent: the building blocks of an
//! edge in the order of a founding, tables, sequences, and the way back after a crash.

mod edges;
mod formation;
mod servers;

use anyhow::{Context, Result, bail};
use pgaa_agent::clock::Clocks;
use pgaa_agent::postgres::{Flush, Postgres};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, Ordinal, pglogical_node_name, subscription_name};
use pgaa_core::observed::{Fact, PostgresFacts};
use pgaa_core::time::Mono;
use servers::{Server, Servers};
use std::time::Duration;

type Who = (NodeId, DataEpoch);

/// Servers that are prepared and have a pglogical node each.
struct Mesh {
    servers: Servers,
    who: Vec<Who>,
    clocks: Clocks,
}

/// Runs a scenario; shows the servers' logs when it fails.
fn play(count: usize, scenario: impl AsyncFnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    let servers = Servers::start(count)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut mesh = Mesh {
        servers,
        who: Vec::new(),
        clocks: Clocks::start(),
    };
    let played = runtime.block_on(scenario(&mut mesh));
    played.with_context(|| mesh.servers.logs())
}

async fn facts(postgres: &Postgres, now: Mono) -> Result<PostgresFacts> {
    match postgres.observe(now, Some(Ordinal(1))).await {
        Fact::Known(facts) => Ok(facts),
        Fact::Unknown(why) => bail!("could not look: {why}"),
    }
}

impl Mesh {
    fn len(&self) -> usize {
        self.who.len()
    }

    fn server(&self, index: usize) -> &Server {
        &self.servers.all[index]
    }

    fn postgres(&self, index: usize) -> &Postgres {
        &self.servers.all[index].postgres
    }

    fn ms(&self) -> u64 {
        self.clocks.mono().0
    }

    /// Prepares all servers.
    async fn prepare(&mut self) -> Result<()> {
        for server in &self.servers.all {
            let identity = server.postgres.prepare(server.node).await?;
            self.who.push((identity.node, identity.epoch));
        }
        Ok(())
    }

    fn subscription(&self, subscriber: usize, provider: usize) -> String {
        subscription_name(self.who[subscriber], self.who[provider])
    }

    /// Names of the subscriptions of one node.
    fn subscriptions(&self, subscriber: usize) -> Vec<String> {
        let others = (0..self.len()).filter(|other| *other != subscriber);
        others
            .map(|provider| self.subscription(subscriber, provider))
            .collect()
    }

    /// The pglogical node, and a slot for every subscriber.
    async fn provide(&self, provider: usize) -> Result<Vec<Lsn>> {
        let postgres = self.postgres(provider);
        let (node, epoch) = self.who[provider];
        let name = pglogical_node_name(node, epoch);
        postgres
            .ensure_local_node(&name, &postgres.local_conninfo()?)
            .await?;
        let mut positions = Vec::new();
        for subscriber in (0..self.len()).filter(|other| *other != provider) {
            let subscription = self.subscription(subscriber, provider);
            let slot = postgres.slot_name(&name, &subscription).await?;
            positions.push(postgres.create_slot(&slot).await?.position);
        }
        Ok(positions)
    }

    async fn look(&self, index: usize) -> Result<PostgresFacts> {
        facts(self.postgres(index), self.clocks.mono()).await
    }

    async fn beat(&self, index: usize) -> Result<u64> {
        let (node, epoch) = self.who[index];
        Ok(self
            .postgres(index)
            .beat(node, epoch, 0, Flush::Now)
            .await?)
    }

    /// Beats on `from` until `to` has heard it. Returns the lag.
    async fn hears(&self, to: usize, from: usize) -> Result<i64> {
        let number = self.beat(from).await?;
        let node = self.who[from].0;
        for _ in 0..1_500 {
            let heard = self.look(to).await?.heartbeats.get(&node).copied();
            if let Some(heard) = heard.filter(|heard| heard.number >= number) {
                return Ok(heard.lag_ms);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("node {to} has not heard node {from} within 15 s")
    }

    /// Waits until a statement answers as expected.
    async fn answers(&self, index: usize, statement: &str, expected: &str) -> Result<()> {
        let mut found = String::new();
        for _ in 0..500 {
            found = self.server(index).shop(statement)?;
            if found == expected {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("node {index}: {statement} says {found:?}, not {expected:?}")
    }
}
