//! Asks the agents how far they are, until the mesh stands.
//!
//! What counts as standing is what every node reports of itself. Must not start or stop anything.

use super::interrupt::Interrupt;
use super::place::Place;
use super::state::DemoState;
use crate::control::Act;
use crate::control::client::{Client, Sockets};
use anyhow::{Context, Result, bail, ensure};
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// How often every agent is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Something is wrong with one node.
#[derive(Debug, Error)]
#[error("{node}: {what}")]
pub struct NodeFailed {
    /// Which node.
    pub node: String,
    /// What is wrong.
    pub what: String,
}

/// What the agents said last, by name of the node; in words where one didn't answer.
pub type Answers = BTreeMap<String, Result<StatusReport, String>>;

/// What was seen last, for the one who shows it.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<String>>);

impl Seen {
    /// "n1 n3 ready, n2 joining (linking)"
    #[must_use]
    pub fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Shows something else.
    pub fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// What is waited for, and how long.
#[derive(Debug, Clone)]
pub struct Goal {
    /// In words, for the message when it isn't reached.
    pub what: &'static str,
    /// Is it reached, with this many nodes?
    pub reached: fn(&StatusReport, usize) -> bool,
    /// How long it may take.
    pub patience: Duration,
}

/// Is this node ready, with all others, and do all its edges deliver?
#[must_use]
pub fn stands(report: &StatusReport, nodes: usize) -> bool {
    let me = report.answered_by.node;
    let ready = report
        .members
        .iter()
        .filter(|row| row.state == Some(NodeState::Ready))
        .count();
    let delivering = report
        .edges
        .iter()
        .filter(|edge| edge.subscriber == me && edge.state == EdgeState::Replicating)
        .count();
    report.node.state == NodeState::Ready
        && report.node.gate_open
        && ready == nodes
        && report.members.len() == nodes
        && delivering + 1 == nodes
}

/// Is the demo's table replicated from here?
#[must_use]
pub fn table_is_replicated(report: &StatusReport, nodes: usize) -> bool {
    stands(report, nodes)
        && report
            .tables
            .replicated
            .iter()
            .any(|table| table == "public.demo_rows")
}

/// Waits until every node has reached the goal.
pub async fn until(
    goal: &Goal,
    state: &DemoState,
    place: &Place,
    seen: &Seen,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        interrupt.check()?;
        still_running(state)?;
        let answers = ask(state, place).await;
        let reached = |answer: &Result<StatusReport, String>| {
            answer
                .as_ref()
                .is_ok_and(|report| (goal.reached)(report, state.nodes.len()))
        };
        if answers.values().all(reached) {
            return Ok(());
        }
        seen.set(summary(&answers));
        if waited >= goal.patience {
            let late = answers.into_iter().find(|(_, answer)| !reached(answer));
            let (node, answer) = late.unwrap_or_else(|| (String::new(), Err(String::new())));
            let what = format!(
                "{} after {} s, it is not so that {}",
                obstacle(&answer),
                waited.as_secs(),
                goal.what
            );
            bail!(NodeFailed { node, what });
        }
        sleep(ASK_EVERY).await;
        waited += ASK_EVERY;
    }
}

/// A process that ended by itself will not get any further.
fn still_running(state: &DemoState) -> Result<()> {
    for node in &state.nodes {
        for (what, mark) in [("the agent", node.agent), ("PostgreSQL", node.server)] {
            if mark.is_some_and(|mark| !mark.is_alive()) {
                let what = format!("{what} has ended by itself");
                bail!(NodeFailed {
                    node: node.name.clone(),
                    what
                });
            }
        }
    }
    Ok(())
}

/// Asks every agent, side by side.
pub async fn ask(state: &DemoState, place: &Place) -> Answers {
    let mut asked = JoinSet::new();
    for node in &state.nodes {
        let (name, socket) = (node.name.clone(), place.node(&node.name).agent_socket());
        asked.spawn(async move {
            let answer = report(&socket).await.map_err(|error| format!("{error:#}"));
            (name, answer)
        });
    }
    asked.join_all().await.into_iter().collect()
}

async fn report(socket: &Path) -> Result<StatusReport> {
    let mut client = Client::connect(&Sockets::One(socket.to_owned())).await?;
    serde_json::from_str(&client.status().await?).context("the report can't be read")
}

/// A new join token, from the first agent that gives one.
pub async fn new_token(state: &DemoState, place: &Place) -> Result<Zeroizing<String>> {
    let mut refused = String::new();
    for node in &state.nodes {
        match token_of(&place.node(&node.name).agent_socket()).await {
            Ok(token) => return Ok(token),
            Err(error) => refused.push_str(&format!("; {}: {error:#}", node.name)),
        }
    }
    bail!("the join token has expired, and no agent gives a new one{refused}")
}

async fn token_of(socket: &Path) -> Result<Zeroizing<String>> {
    let mut client = Client::connect(&Sockets::One(socket.to_owned())).await?;
    let outcome = client.act(Act::TokenCreate { ttl: None }).await?;
    let token = outcome.json.get("token").and_then(|token| token.as_str());
    token
        .map(|token| Zeroizing::new(token.to_owned()))
        .context(outcome.text)
}

/// Removes a node that will not come back from the mesh, where it had got that far: the others
/// would wait for it, and keep what it hasn't received. Tells how that went, as a clause.
pub async fn forget(state: &DemoState, place: &Place, name: &str) -> String {
    for (teller, answer) in ask(state, place).await {
        let listed = |report: StatusReport| report.members.iter().any(|row| row.name == name);
        if !answer.is_ok_and(listed) {
            continue;
        }
        let socket = place.node(&teller).agent_socket();
        return match forget_through(&socket, name).await {
            Ok(()) => ", it was forgotten by the others".to_owned(),
            Err(error) => format!(
                ", and the others still count on it ({error:#}): pgaa-agent --socket {} forget \
                 {name}",
                socket.display()
            ),
        };
    }
    String::new()
}

async fn forget_through(socket: &Path, name: &str) -> Result<()> {
    let mut client = Client::connect(&Sockets::One(socket.to_owned())).await?;
    let outcome = client
        .act(Act::Forget {
            node: name.to_owned(),
            force: false,
        })
        .await?;
    ensure!(outcome.done, outcome.text);
    Ok(())
}

/// "n1 n3 ready, n2 joining (linking)"
fn summary(answers: &Answers) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, answer) in answers {
        let word = word(answer);
        match groups.iter_mut().find(|(known, _)| *known == word) {
            Some((_, names)) => names.push(name),
            None => groups.push((word, vec![name])),
        }
    }
    let group = |(word, names): &(String, Vec<&str>)| match names.len() {
        // Names that say nothing would only fill the line.
        several if several > 2 && several == answers.len() => format!("all {word}"),
        _ => format!("{} {word}", names.join(" ")),
    };
    groups.iter().map(group).collect::<Vec<_>>().join(", ")
}

fn word(answer: &Result<StatusReport, String>) -> String {
    let Ok(report) = answer else {
        return "starting".to_owned();
    };
    match (report.node.phase, &report.node.progress) {
        (_, Some(progress)) => progress.line(),
        (Some(phase), None) => format!("{} ({})", report.node.state.word(), phase.word()),
        (None, None) => report.node.state.word().to_owned(),
    }
}

/// What keeps a node, in words.
fn obstacle(answer: &Result<StatusReport, String>) -> String {
    match answer {
        Err(error) => format!("{error};"),
        Ok(report) => {
            let waiting: Vec<&str> = report
                .waiting_on
                .iter()
                .map(|waiting| waiting.text.as_str())
                .collect();
            let state = format!("{}: {}", report.node.state.word(), report.node.because);
            match waiting.is_empty() {
                true => format!("{state};"),
                false => format!("{state}, waiting on {};", waiting.join("; ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::fixture::mesh;
    use pgaa_core::record::JoinPhase;

    /// The fixture's mesh with everything in it made right.
    fn whole() -> StatusReport {
        let mut report = mesh();
        report.node.state = NodeState::Ready;
        report.node.gate_open = true;
        for member in &mut report.members {
            member.state = Some(NodeState::Ready);
        }
        for edge in &mut report.edges {
            edge.state = EdgeState::Replicating;
        }
        report.tables.replicated = vec!["public.demo_rows".to_owned()];
        report
    }

    #[test]
    fn a_mesh_stands_when_nothing_is_missing() {
        let nodes = whole().members.len();
        assert!(stands(&whole(), nodes) && table_is_replicated(&whole(), nodes));
        assert!(!stands(&whole(), nodes + 1) && !stands(&whole(), nodes - 1));
        let spoilt: [fn(&mut StatusReport); 4] = [
            |report| report.node.state = NodeState::Joining,
            |report| report.node.gate_open = false,
            |report| report.members[1].state = None,
            |report| {
                let me = report.answered_by.node;
                let own = report.edges.iter_mut().find(|edge| edge.subscriber == me);
                own.unwrap().state = EdgeState::Connecting;
            },
        ];
        for spoil in spoilt {
            let mut report = whole();
            spoil(&mut report);
            assert!(!stands(&report, nodes), "{report:?}");
        }
        let mut report = whole();
        report.tables.replicated.clear();
        assert!(!table_is_replicated(&report, nodes));
    }

    #[test]
    fn a_summary_groups_nodes_by_what_they_do() {
        let of = |state, phase| {
            let mut report = whole();
            (report.node.state, report.node.phase, report.node.progress) = (state, phase, None);
            Ok(report)
        };
        let ready = || of(NodeState::Ready, None);
        let linking = of(NodeState::Joining, Some(JoinPhase::Linking));
        let silent = Err("no agent answers".to_owned());
        let told = |answers: Vec<Result<StatusReport, String>>| {
            let names = (1..).map(|number| format!("n{number}"));
            summary(&names.zip(answers).collect())
        };
        let mixed = vec![ready(), linking, ready(), silent];
        assert_eq!(
            told(mixed),
            "n1 n3 ready, n2 joining (linking), n4 starting"
        );
        assert_eq!(told(vec![ready(), ready(), ready()]), "all ready");
        assert_eq!(told(vec![ready()]), "n1 ready");
    }
}
