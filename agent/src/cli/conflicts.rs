//! `conflicts`: what this node has met, and where there are the most.

use super::args::{ConflictsArgs, Global, Output};
use super::exit::{Exit, Failure};
use super::render::conflicts as render;
use super::session::connect;
use super::terminal::{page, print};
use crate::clock::Clocks;
use pgaa_core::conflicts::report::{Query, Report};
use pgaa_core::time::Wall;

/// Single conflicts that are shown when nobody says how many.
const SHOWN: u32 = 20;

/// Asks, and shows the answer.
pub async fn conflicts(global: &Global, arguments: ConflictsArgs) -> Result<Exit, Failure> {
    let since = i64::try_from(arguments.since.as_millis()).unwrap_or(i64::MAX);
    let pair = match arguments.pair.as_slice() {
        [one, other] => Some((one.clone(), other.clone())),
        [] => None,
        _ => {
            let text = "--pair takes two nodes: --pair db1,db2";
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    let query = Query {
        since: Wall(Clocks::start().wall().0.saturating_sub(since)),
        table: arguments.table,
        pair,
        limit: arguments.limit.unwrap_or(SHOWN),
    };
    let json = connect(global).await?.conflicts(query).await?;
    match arguments.output.output {
        Output::Json => print(&format!("{json}\n"))?,
        Output::Text => {
            let report: Report = serde_json::from_str(&json).map_err(|error| {
                let text = format!(
                    "the agent's answer can't be read ({error}); upgrade this program, or read it \
                     with -o json"
                );
                Failure::new(Exit::Unreachable, text)
            })?;
            let mut page = page();
            render::write(&mut page, &report);
            print(&page.into_text())?;
        }
    }
    Ok(Exit::Ok)
}
