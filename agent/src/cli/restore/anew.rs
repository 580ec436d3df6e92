//! `backup found` and `backup join-anew`: the whole mesh's way back, node by node.

use super::super::exit::{Exit, Failure};
use super::super::terminal::print;
use super::tell;
use crate::clock::Clocks;
use crate::config::Settings;
use crate::restore::found::Way;
use anyhow::Context;
use jiff::Timestamp;
use pgaa_core::restore::Target;
use pgaa_core::restore::found::Role;

/// Shows the steps, and does them where that was said.
pub async fn anew(
    settings: &Settings,
    role: Role,
    past: (Target, Option<String>),
    yes: bool,
) -> Result<Exit, Failure> {
    let now = Timestamp::from_millisecond(Clocks::start().wall().0);
    let stamp = now
        .context("this machine's clock")?
        .strftime("%Y%m%dT%H%M%SZ");
    let mut way = Way::new(settings, role, past, stamp.to_string())?;
    let steps = way.in_words();
    let lines: Vec<String> = steps
        .iter()
        .enumerate()
        .map(|(number, (step, done))| {
            let mark = if *done { "  (done)" } else { "" };
            format!("{}. {step}{mark}\n", number + 1)
        })
        .collect();
    if !yes {
        print(&format!(
            "{}Nothing was done. The same command with --yes does it, and goes on where it was when \
             it is interrupted.\n",
            lines.concat()
        ))?;
        return Ok(Exit::Ok);
    }
    way.go(&mut tell).await?;
    print(&next(settings, role))?;
    Ok(Exit::Ok)
}

fn next(settings: &Settings, role: Role) -> String {
    let units = "systemctl restart pgaa-provision pgaa-agent";
    match role {
        Role::Founder => format!(
            "done. Start it: {units}\n\
             It founds the new mesh when {} nodes are there. On each other machine, with the same new \
             token: pgaa-agent backup join-anew\n",
            settings.policy.expect
        ),
        Role::Joiner => format!("done. Start it: {units}\n"),
    }
}
