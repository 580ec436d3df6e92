//! `wait`: until something is so, or the time is over.

use super::args::{Global, Goal};
use super::exit::{Exit, Failure};
use super::reading::read;
use super::session::connect;
use super::terminal::print;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long to wait before an agent that can't be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Waits. An agent that isn't there yet is waited for as well: this is what scripts call right
/// after boot.
pub async fn wait(global: &Global, goal: Goal, time_max: Duration) -> Result<Exit, Failure> {
    let mut lacking = "no agent has answered yet".to_owned();
    match timeout(time_max, until(global, goal, &mut lacking)).await {
        Ok(Ok(())) => {
            print(&format!("{}\n", said(goal)))?;
            Ok(Exit::Ok)
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => {
            let text = format!(
                "not within {} s: {lacking}; look at: pgaa-agent status",
                time_max.as_secs_f64()
            );
            Err(Failure::new(Exit::TimedOut, text))
        }
    }
}

async fn until(global: &Global, goal: Goal, lacking: &mut String) -> Result<(), Failure> {
    loop {
        match attempt(global, goal, lacking).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => {
                *lacking = failure.text;
            }
            Err(failure) => return Err(failure),
        }
        sleep(RETRY).await;
    }
}

/// Follows one connection; false when it ended before the goal was reached.
async fn attempt(global: &Global, goal: Goal, lacking: &mut String) -> Result<bool, Failure> {
    let mut client = connect(global).await?;
    let mut documents = client.watch_status().await?;
    while let Some(json) = client.next(&mut documents).await? {
        match reached(goal, &read(&json)?) {
            Ok(()) => return Ok(true),
            Err(why) => *lacking = why,
        }
    }
    Ok(false)
}

fn said(goal: Goal) -> &'static str {
    match goal {
        Goal::Ready => "ready",
        Goal::Member => "member",
        Goal::Converged => "converged",
        Goal::Left => "left",
    }
}

/// Is it so? If not, what is lacking.
fn reached(goal: Goal, report: &StatusReport) -> Result<(), String> {
    let node = &report.node;
    let here = || {
        let waiting = report
            .waiting_on
            .first()
            .map(|w| format!("; waiting on {}", w.text));
        let (state, because) = (node.state.word(), &node.because);
        format!(
            "this node is {state}: {because}{}",
            waiting.unwrap_or_default()
        )
    };
    let is = |so: bool| if so { Ok(()) } else { Err(here()) };
    match goal {
        Goal::Ready => {
            is(node.state == NodeState::Ready && node.gate_open)?;
            node.withheld.clone().map_or(Ok(()), Err)
        }
        Goal::Member => is(node.ordinal.is_some() && node.state != NodeState::Left),
        Goal::Left => is(node.state == NodeState::Left),
        Goal::Converged => {
            is(node.state == NodeState::Ready && node.gate_open)?;
            converged(report)
        }
    }
}

fn converged(report: &StatusReport) -> Result<(), String> {
    let unready = report
        .members
        .iter()
        .find(|member| member.state != Some(NodeState::Ready));
    if let Some(member) = unready {
        let state = member.state.map_or("silent", NodeState::word);
        return Err(format!("{} is {state}", member.name));
    }
    let expected = report.members.len() * report.members.len().saturating_sub(1);
    let replicating = report
        .edges
        .iter()
        .filter(|edge| edge.state == EdgeState::Replicating);
    let replicating = replicating.count();
    if replicating < expected {
        return Err(format!("{replicating} of {expected} edges replicate"));
    }
    match report.doing.first() {
        Some(action) => Err(format!("still to be done: {action}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::fixture;

    #[test]
    fn goals_are_judged_by_the_report() {
        let mut report = fixture::mesh();
        assert_eq!(reached(Goal::Ready, &report), Ok(()));
        assert_eq!(reached(Goal::Member, &report), Ok(()));
        let lacking = reached(Goal::Left, &report).unwrap_err();
        assert!(
            lacking.starts_with("this node is ready: every edge"),
            "{lacking}"
        );
        assert_eq!(
            reached(Goal::Converged, &report).unwrap_err(),
            "node-3 is joining"
        );
        report.members[2].state = Some(NodeState::Ready);
        assert_eq!(
            reached(Goal::Converged, &report).unwrap_err(),
            "3 of 6 edges replicate"
        );
        for edge in &mut report.edges {
            edge.state = EdgeState::Replicating;
        }
        let doing = reached(Goal::Converged, &report).unwrap_err();
        assert_eq!(doing, "still to be done: make the slot for node-3");
        report.doing.clear();
        assert_eq!(reached(Goal::Converged, &report), Ok(()));
        report.edges.pop();
        assert_eq!(
            reached(Goal::Converged, &report).unwrap_err(),
            "5 of 6 edges replicate"
        );

        let forming = fixture::forming();
        for goal in [Goal::Ready, Goal::Member, Goal::Converged, Goal::Left] {
            let lacking = reached(goal, &forming).unwrap_err();
            assert!(
                lacking.ends_with("waiting on 2 of 3 nodes are there"),
                "{lacking}"
            );
        }
    }
}
