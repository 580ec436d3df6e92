//! `backup verify --restore`

use super::super::args::Output;
use super::super::exit::{Exit, Failure};
use super::super::render::proof as render;
use super::super::terminal::{page, print};
use super::tell;
use crate::config::Settings;
use crate::restore::{proof, scratch_root};
use anyhow::Context;
use std::path::PathBuf;

/// Proves this node's backups: 0 when they hold, 1 when they could not be looked at, 2 when they
/// don't.
pub async fn prove(
    settings: &Settings,
    scratch: Option<PathBuf>,
    output: Output,
) -> Result<Exit, Failure> {
    let above = scratch.unwrap_or_else(|| scratch_root(settings));
    let mut told = tell;
    // What is begun before an interruption is removed by the next.
    let proof = tokio::select! {
        proof = proof::prove(settings, &above, &mut told) => proof?,
        _ = tokio::signal::ctrl_c() => {
            crate::restore::discard_left(settings, &above).await;
            return Err(Failure::new(Exit::Degraded, "interrupted"));
        }
    };
    match output {
        Output::Json => {
            let json = serde_json::to_string(&proof).context("the proof")?;
            print(&format!("{json}\n"))?;
        }
        Output::Text => {
            let mut page = page();
            render::write(&mut page, &proof);
            print(&page.into_text())?;
        }
    }
    Ok(if proof.holds() {
        Exit::Ok
    } else {
        Exit::Critical
    })
}
