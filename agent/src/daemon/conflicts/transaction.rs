//! What a transaction holds that stops an apply worker here, as its provider tells it.
//!
//! Must not know what is done about it.

use super::skip::Edge;
use crate::daemon::node::Node;
use crate::durable;
use anyhow::{Context, ensure};
use pgaa_core::conflicts::Commit;
use pgaa_core::ids::Lsn;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};

/// A transaction that wrote more than this is not looked through: bytes.
const BYTES_MAX: u64 = 256 << 20;

/// One change, or the beginning or end.
pub(super) struct Line {
    /// Where it ends in the provider's WAL.
    pub(super) at: Lsn,
    /// As `test_decoding` writes it.
    pub(super) text: String,
}

/// Its lines, in their order.
pub(super) struct Told(Lines<BufReader<File>>);

impl Iterator for Told {
    type Item = anyhow::Result<Line>;

    fn next(&mut self) -> Option<anyhow::Result<Line>> {
        Some(
            self.0
                .next()?
                .map_err(Into::into)
                .and_then(|line| read_line(&line)),
        )
    }
}

fn read_line(line: &str) -> anyhow::Result<Line> {
    let mut parts = line.splitn(3, '|');
    let (at, json) = (parts.next(), parts.nth(1));
    let (at, json) = at
        .zip(json)
        .context("the provider wrote something else than a change")?;
    Ok(Line {
        at: at.parse()?,
        text: serde_json::from_str(json)?,
    })
}

/// Has the provider tell it, and `look` look through it.
pub(super) async fn read<T: Send + 'static>(
    node: &Node,
    (edge, commit): (&Edge, Commit),
    look: impl FnOnce(Told) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let directory = node.settings.paths.state_dir.join("skipped");
    durable::make_directory(&directory, 0o700)?;
    let file = directory.join(format!("{}-{}.being-read", edge.provider, commit.xid));
    edge.source
        .read_transaction(&edge.slot, (commit.lsn, commit.xid), &file)
        .await
        .with_context(|| format!("{} can't tell what the transaction holds", edge.provider))?;
    let work = move || {
        let opened = File::open(&file)?;
        let small = opened.metadata()?.len() <= BYTES_MAX;
        let found = small.then(|| look(Told(BufReader::new(opened).lines())));
        std::fs::remove_file(&file)?;
        ensure!(small, "the transaction is too large to be looked through");
        found.context("the transaction was not read")?
    };
    tokio::task::spawn_blocking(work).await?
}
