//! `verify`: asks the agent to compare tables on all nodes, and shows the outcome.

use super::args::{Global, Output};
use super::exit::{Exit, Failure};
use super::render::{clean, verify as render};
use super::session::connect;
use super::terminal::{page, print};
use pgaa_core::verify::{Finding, News, Report, Wish};
use std::io::{self, IsTerminal, Write};

/// Compares, and ends with 0 when all is equal, 1 when not all could be compared or the structures
/// differ, 2 when rows differ.
pub async fn verify(global: &Global, wish: Wish, output: Output) -> Result<Exit, Failure> {
    let mut client = connect(global).await?;
    let mut news = client.verify(wish).await?;
    let shown = io::stderr().is_terminal();
    loop {
        let next = tokio::select! {
            next = client.next(&mut news) => next,
            _ = tokio::signal::ctrl_c() => return Err(broken_off(Exit::Degraded, "interrupted")),
        };
        let json = match next {
            Ok(Some(json)) => json,
            Ok(None) => return Err(broken_off(Exit::Unreachable, "the agent stopped")),
            Err(error) => {
                let failure = Failure::from(error);
                return Err(broken_off(failure.exit, &failure.text));
            }
        };
        let read = serde_json::from_str(&json);
        match read.map_err(|error| unreadable(&error))? {
            News::Progress {
                table,
                number,
                tables,
                rows,
                suspects,
            } if shown => {
                let text = format!(
                    "table {number} of {tables}: {}, {rows} rows compared, {suspects} to look at again",
                    clean(&table)
                );
                let _ = write!(io::stderr(), "\r\x1b[K{text}");
            }
            News::Progress { .. } => {}
            News::Report(report) => {
                if shown {
                    let _ = write!(io::stderr(), "\r\x1b[K");
                }
                return tell(&report, output);
            }
        }
    }
}

fn broken_off(exit: Exit, why: &str) -> Failure {
    let text = format!(
        "{why}; the comparison is broken off. To go on where it was: pgaa-agent verify --resume"
    );
    Failure::new(exit, text)
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let text = format!("the agent's answer can't be read ({error}); upgrade this program");
    Failure::new(Exit::Unreachable, text)
}

fn tell(report: &Report, output: Output) -> Result<Exit, Failure> {
    match output {
        Output::Json => {
            let json = serde_json::to_string(report).map_err(|error| unreadable(&error))?;
            print(&format!("{json}\n"))?;
        }
        Output::Text => {
            let mut page = page();
            render::write(&mut page, report);
            print(&page.into_text())?;
        }
    }
    Ok(match report.finding() {
        Finding::Equal => Exit::Ok,
        Finding::Open => Exit::Degraded,
        Finding::Different => Exit::Critical,
    })
}
