//! Keeps an eye on the clock: what its source says, how far the others' are from it, and whether
//! it was set or stood still. What that means is the plan's to say.

use super::node::Node;
use crate::clock;
use crate::events::Severity;
use log::{debug, warn};
use pgaa_core::clock::ClockView;
use pgaa_core::clock::distrust::{Change, Distrust, Pair};
use pgaa_core::clock::jolt::{Jolt, Looks};
use pgaa_core::clock::pair::{Exchange, Instants, Taken, Window};
use pgaa_core::clock::verdict::Settling;
use pgaa_core::ids::NodeId;
use pgaa_core::plan::Inputs;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two questions to the own source: it hears from its servers no more often.
const SOURCE_PERIOD: Duration = Duration::from_secs(10);

/// Between two measurements of the others. The drift of two clocks meanwhile is 1 ms.
const MEASURE_PERIOD: Duration = Duration::from_secs(5);

/// Exchanges at once with each: the first wakes both ends, the next are quick.
const BURST: usize = 2;

/// Between two measurements while this node waits for clocks.
const WAITING_PERIOD: Duration = Duration::from_secs(1);

/// Between two attempts to measure those that were never measured.
const UNMEASURED_PERIOD: Duration = Duration::from_millis(50);

/// Between two looks for a step or a pause; together with the loop, which wakes anyway.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What was measured of the others' clocks.
#[derive(Debug, Default)]
pub struct Pairs(Mutex<BTreeMap<NodeId, Window>>);

impl Pairs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, other: NodeId, times: &Exchange) {
        match self.lock().entry(other).or_default().take(times) {
            Ok(Taken::Fits) => {}
            Ok(Taken::Jumped) => {
                debug!("the raw clock of {} or this one has jumped", other.short())
            }
            Err(bad) => debug!("{}: {bad}", other.short()),
        }
    }

    fn knows(&self, other: NodeId) -> bool {
        self.lock().contains_key(&other)
    }

    fn retain(&self, members: &BTreeSet<NodeId>) {
        self.lock().retain(|node, _| members.contains(node));
    }

    fn clear(&self) {
        self.lock().values_mut().for_each(Window::clear);
    }

    fn read(&self, now: Instants) -> ClockView {
        let windows = self.lock();
        let read = windows
            .iter()
            .filter_map(|(node, window)| Some((*node, window.reading(now)?)));
        ClockView {
            pairs: read.collect(),
            ..ClockView::default()
        }
    }
}

/// What is known of the clock now.
#[must_use]
pub fn view(node: &Node) -> ClockView {
    ClockView {
        local: *node.clock.borrow(),
        ..node.clock_pairs.read(node.clocks.instants())
    }
}

/// Asks the own source.
pub async fn watch_source(node: Arc<Node>) {
    let mut settling = Settling::default();
    let error_us_max = node.settings.policy.clock.error_us_max();
    loop {
        let now = node.clocks.wall();
        let reading = clock::sample(&node.settings.clock, error_us_max, now).await;
        let reading = settling.take(reading, error_us_max);
        node.clock.send_replace(reading);
        node.clocks.pulse(SOURCE_PERIOD).await;
    }
}

/// Measures the others, at a steady pace, and sooner while the plan waits for it.
pub async fn measure(node: Arc<Node>) {
    let mut last = node.clocks.mono();
    loop {
        let wanted = tokio::select! {
            () = node.clocks.pulse(MEASURE_PERIOD) => false,
            () = node.clock_wanted.notified() => true,
        };
        let waited = node.clocks.mono().since(last) >= WAITING_PERIOD;
        let all = node.knowledge.others();
        node.clock_pairs
            .retain(&all.iter().map(|(other, _)| *other).collect());
        let due = all
            .into_iter()
            .filter(|(other, _)| !wanted || waited || !node.clock_pairs.knows(*other));
        let mut bursts: JoinSet<()> = JoinSet::new();
        for other in due {
            let node = Arc::clone(&node);
            bursts.spawn(async move { burst(&node, other).await });
        }
        if bursts.is_empty() {
            sleep(UNMEASURED_PERIOD).await;
            continue;
        }
        bursts.join_all().await;
        if !wanted || waited {
            last = node.clocks.mono();
        }
        if wanted {
            node.knowledge.changed.notify_one();
            sleep(UNMEASURED_PERIOD).await;
        }
    }
}

async fn burst(node: &Node, (other, address): (NodeId, SocketAddr)) {
    for _ in 0..BURST {
        match node.peers.measure_clock(other, address).await {
            Ok(times) => node.clock_pairs.take(other, &times),
            Err(error) => {
                debug!("the clock of {} was not measured: {error}", other.short());
                return;
            }
        }
    }
}

/// Looks for steps and pauses.
pub async fn watch_jolts(node: Arc<Node>) {
    let mut looks = Looks::default();
    loop {
        for jolt in looks.note(node.clocks.ticks(), LOOK_PERIOD) {
            note(&node, jolt);
        }
        node.clocks.pulse(LOOK_PERIOD).await;
    }
}

fn note(node: &Node, jolt: Jolt) {
    let (kind, text) = match jolt {
        Jolt::Stepped(us) => {
            let way = if us < 0 { "back" } else { "forward" };
            let seconds = us as f64 / 1e6;
            let text = format!(
                "the clock was set {way} by {:.3} s; writes of this node from before and after \
                 can't be put in order by their times",
                seconds.abs()
            );
            ("clock_stepped", text)
        }
        Jolt::Suspended(time) => (
            "machine_suspended",
            format!("this machine was suspended for {:.1} s", time.as_secs_f64()),
        ),
        Jolt::StoodStill(time) => (
            "stood_still",
            format!(
                "this machine, or the agent, stood still for {:.1} s",
                time.as_secs_f64()
            ),
        ),
    };
    node.event(Severity::Warning, kind, text);
    match jolt {
        // The raw clock goes on through a step.
        Jolt::Stepped(_) => {}
        Jolt::Suspended(_) | Jolt::StoodStill(_) => node.clock_pairs.clear(),
    }
    node.clock_wanted.notify_one();
    node.knowledge.changed.notify_one();
}

/// Notes which clocks are too far apart, durably, and tells of it once.
pub fn note_distrust(node: &Node, distrust: &mut Distrust, inputs: &Inputs<'_>) {
    let seen = pgaa_core::plan::clock::pairs(inputs);
    let changes = distrust.note(&seen, node.clocks.wall());
    if changes.is_empty() {
        return;
    }
    if let Err(error) = node.store.set_distrust(distrust) {
        warn!("the times of clocks that differed can't be kept: {error}");
    }
    for change in changes {
        let (severity, kind, text) = tell(inputs, change);
        node.event(severity, kind, text);
    }
}

fn tell(inputs: &Inputs<'_>, change: Change) -> (Severity, &'static str, String) {
    let name = |node: NodeId| {
        inputs
            .roster
            .map_or_else(|| node.short(), |roster| roster.name_of(node))
    };
    let both = |(one, other): Pair| (name(one), name(other));
    match change {
        Change::Apart(pair, offset_us) => {
            let (one, other) = both(pair);
            let way = if offset_us < 0 { "behind" } else { "ahead of" };
            let seconds = (offset_us as f64 / 1e6).abs();
            let text = format!("the clock of {other} is {seconds:.3} s {way} that of {one}");
            (Severity::Critical, "clocks_apart", text)
        }
        Change::Agree(pair) => {
            let (one, other) = both(pair);
            let text = format!("the clocks of {one} and {other} agree again");
            (Severity::Info, "clocks_agree", text)
        }
    }
}
