//! The demonstration: a table, a row from each node, and how soon every node has all of them.
//!
//! Uses the servers as an application does, by the connection strings that are shown at the end.

use super::state::DemoState;
use crate::clock::Clocks;
use anyhow::{Context, Result, bail};
use pgaa_core::time::Mono;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

/// How often a node is asked which rows it has.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Rows arrive within milliseconds; after this long something is wrong.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// A connection to this machine is there at once, or something is wrong.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// No statement of the demonstration may hang.
const OPTIONS: &str = "-c statement_timeout=10s -c lock_timeout=5s -c application_name=pgaa-demo";

/// Connects to every node, by name, in their order.
pub async fn connect(state: &DemoState) -> Result<Vec<(String, Client)>> {
    let mut clients = Vec::new();
    for node in &state.nodes {
        let mut config: Config = state.dsn(node).parse()?;
        config.connect_timeout(CONNECT_MAX).options(OPTIONS);
        let connected = config.connect(NoTls).await;
        let (client, connection) =
            connected.with_context(|| format!("{} can't be connected to", node.name))?;
        // It ends with the client, which reports what went wrong.
        tokio::spawn(async move { drop(connection.await) });
        clients.push((node.name.clone(), client));
    }
    Ok(clients)
}

/// Makes the table on every node.
pub async fn create_table(clients: &[(String, Client)]) -> Result<()> {
    for (name, client) in clients {
        let made = client
            .batch_execute(include_str!("sql/create_demo_rows.sql"))
            .await;
        made.with_context(|| format!("the table can't be made on {name}"))?;
    }
    Ok(())
}

/// When the rows came, milliseconds after their commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrivals {
    /// The nodes, in order.
    pub nodes: Vec<String>,
    /// By writer, then by reader; `None` on the diagonal.
    pub after_ms: Vec<Vec<Option<u64>>>,
}

/// Writes a row on every node, and waits until each has all of them.
pub async fn write_and_wait(clients: Vec<(String, Client)>) -> Result<Arrivals> {
    let clocks = Clocks::start();
    let nodes: Vec<String> = clients.iter().map(|(name, _)| name.clone()).collect();
    let mut ids = Vec::new();
    let mut committed = Vec::new();
    for (name, client) in &clients {
        let note = format!("written on {name}");
        let row = client
            .query_one(include_str!("sql/insert_demo_row.sql"), &[name, &note])
            .await
            .with_context(|| format!("no row can be written on {name}"))?;
        ids.push(row.try_get::<_, Uuid>(0)?);
        committed.push(clocks.mono());
    }
    let mut readers = JoinSet::new();
    for (index, (name, client)) in clients.into_iter().enumerate() {
        let ids = ids.clone();
        readers.spawn(async move { (index, watch(&name, &client, &ids, clocks).await) });
    }
    let mut seen = BTreeMap::new();
    for (index, result) in readers.join_all().await {
        seen.insert(index, result?);
    }
    let after_ms = (0..nodes.len()).map(|writer| {
        let row = seen.iter().map(|(reader, times)| {
            let at = times.get(&ids[writer]).copied().unwrap_or_default();
            let after = at.since(committed[writer]).as_millis();
            (*reader != writer).then(|| u64::try_from(after).unwrap_or(u64::MAX))
        });
        row.collect()
    });
    Ok(Arrivals {
        after_ms: after_ms.collect(),
        nodes,
    })
}

/// Notes when each row is first seen on one node.
async fn watch(
    name: &str,
    client: &Client,
    ids: &Vec<Uuid>,
    clocks: Clocks,
) -> Result<BTreeMap<Uuid, Mono>> {
    let statement = client
        .prepare(include_str!("sql/seen_demo_rows.sql"))
        .await?;
    let began = clocks.mono();
    let mut seen = BTreeMap::new();
    loop {
        let rows = client.query(&statement, &[ids]).await;
        let rows = rows.with_context(|| format!("{name} can't be asked for its rows"))?;
        for row in rows {
            seen.entry(row.try_get(0)?).or_insert_with(|| clocks.mono());
        }
        if seen.len() == ids.len() {
            return Ok(seen);
        }
        if clocks.mono().since(began) > ARRIVAL_MAX {
            let seconds = ARRIVAL_MAX.as_secs();
            bail!(
                "{name} has {} of {} rows after {seconds} s",
                seen.len(),
                ids.len()
            );
        }
        sleep(ASK_EVERY).await;
    }
}

impl Arrivals {
    /// How long the last one took.
    #[must_use]
    pub fn last_ms(&self) -> u64 {
        self.after_ms
            .iter()
            .flatten()
            .flatten()
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// A table for people: a line for each writer, a column for each reader.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{:<14}", "row of");
        for node in &self.nodes {
            text.push_str(&format!("{:>9}", format!("on {node}")));
        }
        for (node, row) in self.nodes.iter().zip(&self.after_ms) {
            text.push_str(&format!("\n{node:<14}"));
            for after in row {
                let cell = after.map_or("written".to_owned(), |ms| format!("{ms} ms"));
                text.push_str(&format!("{cell:>9}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_wrote_and_when_it_came() {
        let arrivals = Arrivals {
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            after_ms: vec![vec![None, Some(4)], vec![Some(12), None]],
        };
        assert_eq!(arrivals.last_ms(), 12);
        assert_eq!(
            arrivals.table(),
            "row of            on n1    on n2\n\
             n1              written     4 ms\n\
             n2                12 ms  written"
        );
    }
}
