//! Structure and rows, from the source's snapshot. Step 1 of the protocol.

use super::super::node::Node;
use crate::postgres::{CopySession, Reader, Source, SourceTable};
use anyhow::Context;
use log::{debug, info};
use pgaa_core::ids::{Lsn, pglogical_node_name, subscription_name};
use pgaa_core::join::Member;
use pgaa_core::status::{Progress, ProgressPart};
use pgaa_core::time::Mono;
use std::sync::Arc;
use std::time::Duration;

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

fn source_server(node: &Node, dsn: String) -> anyhow::Result<Source> {
    let local = node.postgres.local_conninfo()?;
    Ok(Source::new(&node.settings, dsn, local))
}

/// Copies everything. Returns the position in the source's WAL from which changes go on.
pub async fn copy(node: &Arc<Node>, source: &Member, dsn: String) -> anyhow::Result<Lsn> {
    let epoch = node
        .local
        .borrow()
        .epoch
        .context("the database is not prepared")?;
    let provider = pglogical_node_name(source.node, source.epoch);
    let subscription = subscription_name((node.id(), epoch), (source.node, source.epoch));
    let slot = node.postgres.slot_name(&provider, &subscription).await?;
    node.postgres.drop_user_objects().await?;
    let server = source_server(node, dsn)?;
    // The snapshot lives as long as this value.
    let snapshot = server.export(&slot).await.with_context(|| {
        format!(
            "{} gives no slot: are there old or prepared transactions?",
            source.name
        )
    })?;
    debug!("joining: the slot is made");
    let dump = node.settings.paths.state_dir.join("join.dump");
    // Each of these is a program with a connection of its own: what doesn't need another runs
    // beside it.
    let structure = async {
        tokio::try_join!(
            server.copy_roles(),
            server.dump_structure(&snapshot.name, &dump)
        )?;
        server.restore_structure("pre-data", &dump).await
    };
    let rows = async {
        let mut reader = server.reader(&snapshot.name).await?;
        let tables = reader.tables().await?;
        Ok((reader, tables))
    };
    let ((), (mut reader, tables)) = tokio::try_join!(structure, rows)?;
    debug!("joining: the structure is here");
    crate::failpoint::reached("structured").await;
    copy_tables(node, &mut reader, &tables).await?;
    let position = snapshot.position;
    drop((reader, snapshot));
    debug!("joining: the rows are here");
    crate::failpoint::reached("rows_copied").await;
    let finished = async {
        server.restore_structure("post-data", &dump).await?;
        anyhow::Ok(node.postgres.analyze().await?)
    };
    let sequences = async { anyhow::Ok(server.copy_sequences().await?) };
    tokio::try_join!(finished, sequences)?;
    crate::durable::remove(&dump)?;
    Ok(position)
}

async fn copy_tables(
    node: &Arc<Node>,
    reader: &mut Reader,
    tables: &[SourceTable],
) -> anyhow::Result<()> {
    let origin = format!("pgaa_copy_{}", node.id().0.simple());
    let session = node.postgres.copy_session(&origin).await?;
    let mut meter = Meter::new(node.clocks.mono(), tables);
    if let Some(first) = tables.first() {
        reader.ask(first).await?;
    }
    for (number, table) in tables.iter().enumerate() {
        meter.report(node, number);
        // So that its first rows are on their way when the last ones of this table are here.
        if let Some(next) = tables.get(number + 1) {
            reader.ask(next).await?;
        }
        let copied = copy_table(node, reader, (table, &session), |bytes| {
            meter.add(number, bytes);
            meter.report(node, number);
        });
        let failed = || format!("copying {} was cut short", table.name);
        copied.await.with_context(failed)?;
        meter.parts[number].done = true;
    }
    info!("{} tables were copied", tables.len());
    Ok(())
}

/// What has been copied so far.
struct Meter {
    started: Mono,
    parts: Vec<ProgressPart>,
}

impl Meter {
    fn new(started: Mono, tables: &[SourceTable]) -> Meter {
        let part = |table: &SourceTable| ProgressPart {
            name: table.name.clone(),
            bytes_done: 0,
            bytes_total: table.bytes,
            done: false,
        };
        Meter {
            started,
            parts: tables.iter().map(part).collect(),
        }
    }

    fn add(&mut self, number: usize, bytes: usize) {
        let part = &mut self.parts[number];
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        part.bytes_done = part.bytes_done.saturating_add(bytes);
    }

    /// A table's size on disk is not that of its rows on their way: what is finished counts as
    /// it was, the rest as estimated.
    fn report(&self, node: &Node, number: usize) {
        let elapsed_ms = node.clocks.mono().since(self.started).as_millis().max(1);
        let bytes_done: u64 = self.parts.iter().map(|part| part.bytes_done).sum();
        let expected = |part: &ProgressPart| match part.done {
            true => part.bytes_done,
            false => part.bytes_total.max(part.bytes_done),
        };
        let rate = u128::from(bytes_done) * 1000 / elapsed_ms;
        node.join_progress.send_replace(Some(Progress {
            what: format!("copying {}", self.parts[number].name),
            bytes_done,
            bytes_total: self.parts.iter().map(expected).sum(),
            bytes_per_s: u64::try_from(rate).unwrap_or(u64::MAX),
            parts: self.parts.clone(),
        }));
    }
}

async fn copy_table(
    node: &Arc<Node>,
    reader: &mut Reader,
    (table, session): (&SourceTable, &CopySession),
    mut copied: impl FnMut(usize),
) -> anyhow::Result<()> {
    let mut into = session.begin(&table.empty, &table.copy_in).await?;
    reader.begin().await?;
    let mut told = node.clocks.mono();
    let mut untold = 0;
    // Nothing is committed here unless all of it was sent there.
    while let Some(rows) = reader.rows().await? {
        untold += rows.len();
        into.send(rows).await?;
        if node.clocks.mono().since(told) >= TELL_EVERY {
            copied(std::mem::take(&mut untold));
            told = node.clocks.mono();
        }
    }
    copied(untold);
    into.finish().await?;
    session.commit().await?;
    Ok(())
}
