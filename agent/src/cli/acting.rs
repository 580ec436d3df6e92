//! The commands that ask the agent to do something.

use super::args::{Global, Output, OutputArg, PromiseCommand, SequencesCommand, TokenCommand};
use super::exit::{Exit, Failure};
use super::reading::read;
use super::render::clean;
use super::session::connect;
use super::terminal::print;
use crate::control::{Act, ActOutcome};
use pgaa_core::ids::NodeId;
use pgaa_core::status::StatusReport;
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks for one act and tells how it went.
pub async fn act(global: &Global, act: Act, output: Output) -> Result<Exit, Failure> {
    let outcome = connect(global).await?.act(act).await?;
    tell(&outcome, output)
}

pub(super) fn tell(outcome: &ActOutcome, output: Output) -> Result<Exit, Failure> {
    if output == Output::Json && !outcome.json.is_null() {
        print(&format!("{}\n", outcome.json))?;
    } else if outcome.done {
        print(&format!("{}\n", lines(&outcome.text)))?;
    }
    if outcome.done {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Degraded, lines(&outcome.text)))
}

/// The agent's lines stay lines; anything else that steers a terminal goes.
fn lines(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(clean)
        .collect::<Vec<_>>()
        .join("\n")
}

/// `token`
pub async fn token(global: &Global, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { ttl, output } => {
            act(global, Act::TokenCreate { ttl }, output.output).await
        }
        TokenCommand::List(OutputArg { output }) => act(global, Act::TokenList, output).await,
        TokenCommand::Revoke { id } => act(global, Act::TokenRevoke { id }, Output::Text).await,
    }
}

/// `sequences`
pub async fn sequences(global: &Global, command: SequencesCommand) -> Result<Exit, Failure> {
    match command {
        SequencesCommand::List(OutputArg { output }) => {
            act(global, Act::SequencesList, output).await
        }
        SequencesCommand::Fix { sequences, dry_run } => {
            act(
                global,
                Act::SequencesFix { sequences, dry_run },
                Output::Text,
            )
            .await
        }
    }
}

fn uuid(what: &str, text: &str) -> Result<NodeId, Failure> {
    text.parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("{what}: {error}")))
}

/// `promise`
pub async fn promise(global: &Global, command: PromiseCommand) -> Result<Exit, Failure> {
    match command {
        PromiseCommand::Show(OutputArg { output }) => act(global, Act::PromiseShow, output).await,
        PromiseCommand::Release { candidate } => {
            let candidate = uuid("the candidate", &candidate)?;
            act(global, Act::PromiseRelease { candidate }, Output::Text).await
        }
    }
}

/// `found --only-me`. Two foundings can't be repaired, so nothing here may be automatic: a
/// script that runs on every machine must not get through by chance.
pub async fn found(global: &Global, holder: Option<String>, yes: bool) -> Result<Exit, Failure> {
    let holder = holder
        .map(|text| uuid("--promise-holder", &text))
        .transpose()?;
    if holder.is_none() && (yes || !io::stdin().is_terminal()) {
        let text = "nobody can be asked here, so name the node to which this one has promised \
                    itself: --promise-holder UUID, as pgaa-agent promise show prints it (this \
                    node's own UUID when it has promised itself to nobody)";
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut client = connect(global).await?;
    let report = read(&client.status().await?)?;
    let promise_holder = promise_holder(&report, holder);
    if holder.is_none() && !confirmed(&report)? {
        return Err(Failure::new(Exit::Degraded, "nothing was done"));
    }
    tell(
        &client.act(Act::FoundOnlyMe { promise_holder }).await?,
        Output::Text,
    )
}

/// A node that has promised itself to nobody is its own holder.
fn promise_holder(report: &StatusReport, given: Option<NodeId>) -> Option<NodeId> {
    let promised = report
        .founding
        .as_ref()
        .and_then(|founding| founding.promised_to);
    match given {
        Some(own) if own == report.answered_by.node && promised.is_none() => None,
        Some(given) => Some(given),
        None => promised,
    }
}

fn confirmed(report: &StatusReport) -> Result<bool, Failure> {
    let name = clean(&report.answered_by.name);
    let missing = report
        .founding
        .as_ref()
        .map(|founding| founding.missing.join(", "));
    let missing = missing
        .filter(|list| !list.is_empty())
        .unwrap_or("nobody".to_owned());
    print(&format!(
        "{name} founds the cluster alone; the others join it later.\n\
         Missing: {}.\n\
         If one of them has founded, or founds later, there are two clusters, and nothing can\n\
         make one of them again. Go on only if none of them runs, or all are empty.\n\
         Type the name of this node to go on: ",
        clean(&missing)
    ))?;
    io::stdout().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::fixture;

    #[test]
    fn the_holder_is_the_one_given_else_the_one_shown() {
        let mut report = fixture::forming();
        assert_eq!(promise_holder(&report, None), Some(fixture::node(2)));
        assert_eq!(
            promise_holder(&report, Some(fixture::node(3))),
            Some(fixture::node(3))
        );
        report.founding.as_mut().unwrap().promised_to = None;
        assert_eq!(promise_holder(&report, Some(fixture::node(1))), None);
        assert_eq!(
            promise_holder(&report, Some(fixture::node(3))),
            Some(fixture::node(3))
        );
    }

    #[test]
    fn an_agents_text_keeps_its_lines_and_loses_its_escapes() {
        assert_eq!(lines("a\nb\x1b[2J\n\n"), "a\nb?[2J");
    }
}
