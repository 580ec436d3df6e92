//! Brings nodes up side by side and waits until the mesh stands.
//!
//! Every process is written into the state file as soon as it runs.

use super::interrupt::{Interrupt, Interrupted};
use super::node::Plan;
use super::place::Place;
use super::ports::Reserved;
use super::processes::Mark;
use super::progress::Progress;
use super::state::DemoState;
use super::watch::{Goal, NodeFailed, Seen, stands, until};
use crate::postgres::owner::Owner;
use anyhow::{Error, Result};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long nodes may take to become a mesh: seconds, where a machine isn't very slow.
const ASSEMBLY_MAX: Duration = Duration::from_secs(180);

/// What all steps need.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The demo's directory.
    pub place: &'a Place,
    /// Who runs the servers and agents.
    pub owner: &'a Owner,
    /// Whether somebody wants it to end.
    pub interrupt: &'a Interrupt,
}

/// Brings up the nodes of `state` from index `first` on, for which `held` has the ports.
pub async fn launch(
    state: &mut DemoState,
    first: usize,
    held: Vec<Reserved>,
    around: Around<'_>,
    progress: &mut Progress,
) -> Result<()> {
    let plans: Vec<Plan> = state.nodes[first..]
        .iter()
        .map(|node| Plan::new(state, node, around.place, around.owner))
        .collect();
    let (things, verb) = match plans.len() {
        1 => ("1 PostgreSQL cluster".to_owned(), "is"),
        several => (format!("{several} PostgreSQL clusters"), "are"),
    };
    let making = provision(&plans, around.interrupt);
    progress
        .phase(&format!("making {things}"), String::new, making, |()| {
            format!("{things} made")
        })
        .await?;
    let starting = start(state, first, plans, held, around);
    let started = |_: &()| {
        format!(
            "{} {verb} running, with {} agent",
            things,
            if verb == "is" { "its" } else { "their" }
        )
    };
    progress
        .phase(
            "starting servers and agents",
            String::new,
            starting,
            started,
        )
        .await?;
    let doing = if first == 0 {
        "forming the mesh"
    } else {
        "joining the mesh"
    };
    assemble(state, doing, around, progress).await
}

async fn provision(plans: &[Plan], interrupt: &Interrupt) -> Result<()> {
    let mut steps = JoinSet::new();
    for plan in plans {
        let (plan, interrupt) = (plan.clone(), interrupt.clone());
        steps.spawn_blocking(move || {
            plan.provision(&interrupt)
                .map_err(|error| of_node(plan.name(), error))
        });
    }
    // All of them end before the first failure is told: nothing goes on behind the demo's back.
    steps.join_all().await.into_iter().collect()
}

async fn start(
    state: &mut DemoState,
    first: usize,
    plans: Vec<Plan>,
    held: Vec<Reserved>,
    around: Around<'_>,
) -> Result<()> {
    let mut steps = JoinSet::new();
    for ((plan, held), index) in plans.into_iter().zip(held).zip(first..) {
        let interrupt = around.interrupt.clone();
        steps.spawn_blocking(move || {
            let started = plan.start(held, &interrupt);
            (index, started.map_err(|error| of_node(plan.name(), error)))
        });
    }
    let mut outcome = Ok(());
    for (index, started) in steps.join_all().await {
        match started {
            Ok((agent, server)) => mark(state, index, agent, server),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    state.write(around.place)?;
    outcome
}

fn mark(state: &mut DemoState, index: usize, agent: Mark, server: Mark) {
    if let Some(node) = state.nodes.get_mut(index) {
        node.agent = Some(agent);
        node.server = Some(server);
    }
}

/// Says of which node an error is, unless somebody just wants the demo to end.
fn of_node(name: &str, error: Error) -> Error {
    if error.is::<Interrupted>() {
        return error;
    }
    NodeFailed {
        node: name.to_owned(),
        what: format!("{error:#}"),
    }
    .into()
}

async fn assemble(
    state: &DemoState,
    doing: &str,
    around: Around<'_>,
    progress: &mut Progress,
) -> Result<()> {
    let goal = Goal {
        what: "every node is ready and replicates from every other",
        reached: stands,
        patience: ASSEMBLY_MAX,
    };
    let seen = Seen::default();
    let waiting = until(&goal, state, around.place, &seen, around.interrupt);
    let ready = |_: &()| match state.nodes.len() {
        1 => "1 node ready".to_owned(),
        nodes => format!("{nodes} nodes ready, each replicates from every other"),
    };
    progress.phase(doing, || seen.text(), waiting, ready).await
}
