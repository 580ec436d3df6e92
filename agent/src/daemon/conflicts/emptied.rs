//! A TRUNCATE of tables that refer to one another. pglogical sends it table by table, and PostgreSQL
//! empties none alone that another one refers to: the stream would stand still for ever.
//!
//! So the tables are emptied here together, in the place of that transaction. What other nodes have
//! written to them meanwhile is seen to by the comparison that follows each TRUNCATE.

use super::skip::edge;
use super::transaction::{self, Told};
use crate::daemon::node::Node;
use crate::events::Severity;
use crate::postgres::Passed;
use anyhow::{Context, bail};
use pgaa_core::conflicts::Commit;
use pgaa_core::ids::{Lsn, NodeId};
use pgaa_core::rows::{Change, decode};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Empties the tables that the transaction empties, if it does nothing else, and goes on behind it.
pub(super) async fn make_way(
    node: &Arc<Node>,
    provider: NodeId,
    commit: Commit,
) -> anyhow::Result<()> {
    let edge = edge(node, provider)?;
    let (tables, end) = transaction::read(node, (&edge, commit), emptied).await?;
    let text = format!(
        "{} has emptied {} (TRUNCATE): done here in one step, because tables refer to one another",
        edge.provider,
        tables.join(", ")
    );
    let passed = Passed {
        commit: commit.lsn,
        end,
        emptied: Some((tables, commit.at.0)),
    };
    node.postgres.pass(&edge.subscription, &passed).await?;
    node.event(Severity::Info, "tables_emptied", text);
    Ok(())
}

/// The tables that it empties, and where it ends.
fn emptied(lines: Told) -> anyhow::Result<(Vec<String>, Lsn)> {
    let (mut tables, mut end) = (BTreeSet::new(), None);
    for line in lines {
        let line = line?;
        match decode(&line.text)? {
            Some(Change::Emptied { tables: more }) => tables.extend(more),
            None if line.text.starts_with("COMMIT") => end = Some(line.at),
            // How pglogical itself tells of it.
            None if line.text.starts_with("table pglogical.queue: INSERT:") => {}
            None if line.text.starts_with("BEGIN") => {}
            Some(Change::Gone { .. }) | None => bail!(
                "the transaction changes rows as well as emptying tables that others refer to; \
                 after it was skipped, do here what its export says"
            ),
        }
    }
    if tables.is_empty() {
        bail!("it empties no table");
    }
    let end = end.context("the provider didn't tell all of the transaction")?;
    Ok((tables.into_iter().collect(), end))
}
