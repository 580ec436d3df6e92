//! `backup`: who owns the backups, what there is, how it goes.

use super::acting::act;
use super::args::{BackupKindArg, Global, KeepCommand, Output, OutputArg};
use super::exit::{Exit, Failure};
use super::reading::read;
use super::render::backup as render;
use super::session::connect;
use super::terminal::{page, print};
use crate::control::Act;
use pgaa_core::backup::BackupKind;
use pgaa_core::status::{BackupReport, StatusReport};

/// Runs one of them.
pub async fn backup(global: &Global, command: KeepCommand) -> Result<Exit, Failure> {
    match command {
        KeepCommand::Owner { move_to, output } => {
            act(global, Act::BackupOwner { move_to }, output.output).await
        }
        KeepCommand::List(OutputArg { output }) => list(global, output).await,
        KeepCommand::Status(OutputArg { output }) => status(global, output).await,
        KeepCommand::Run { kind } => {
            let kind = match kind {
                BackupKindArg::Full => BackupKind::Full,
                BackupKindArg::Differential => BackupKind::Differential,
                BackupKindArg::Incremental => BackupKind::Incremental,
            };
            act(global, Act::BackupRun { kind }, Output::Text).await
        }
    }
}

async fn list(global: &Global, output: Output) -> Result<Exit, Failure> {
    let outcome = connect(global).await?.act(Act::BackupList).await?;
    let listing = serde_json::from_value::<render::Listing>(outcome.json.clone());
    match (listing, output) {
        (Ok(listing), Output::Text) if outcome.done && !listing.is_empty() => {
            let mut page = page();
            render::list(&mut page, &listing);
            print(&page.into_text())?;
            Ok(Exit::Ok)
        }
        _ => super::acting::tell(&outcome, output),
    }
}

async fn status(global: &Global, output: Output) -> Result<Exit, Failure> {
    let report: StatusReport = read(&connect(global).await?.status().await?)?;
    let Some(backup) = &report.backup else {
        let text = "backups are off: set backup.repository (pgaa-agent config sample shows how)";
        return Err(Failure::new(Exit::Degraded, text));
    };
    match output {
        Output::Json => print(&format!("{}\n", json(backup)?))?,
        Output::Text => {
            let mut page = page();
            render::write(&mut page, backup, &report);
            print(&page.into_text())?;
        }
    }
    Ok(Exit::Ok)
}

fn json(backup: &BackupReport) -> Result<String, Failure> {
    serde_json::to_string(backup)
        .map_err(|error| Failure::new(Exit::Unreachable, format!("it can't be printed: {error}")))
}
