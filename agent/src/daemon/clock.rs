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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two questions to the own source: it hears from its servers no more often.
const SOURCE_PERIOD: Duration = Duration::from_secs(10);

/// Between two measurements of the others. The drift of two clocks meanwhile is 1 ms.
const MEASURE_PERIOD: Duration = Duration::from_secs(5);

/// Exchanges in a row with each: the first wakes both ends, the next are quick.
const BURST: usize = 2;

/// So many others are measured at once. One that is out of reach holds its place for the time of
/// a call (2 s), once a period.
const BURSTS_MAX: usize = 16;

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
        locked(&self.0)
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

/// Measures the others, at a steady pace, and sooner while the plan waits for it. Nobody waits for
/// another's answer, and nobody is asked twice at once.
pub async fn measure(node: Arc<Node>) {
    let mut last = node.clocks.mono();
    let mut bursts = Bursts::default();
    loop {
        let wanted = tokio::select! {
            () = node.clocks.pulse(MEASURE_PERIOD) => false,
            () = node.clock_wanted.notified() => true,
        };
        let everybody = !wanted || node.clocks.mono().since(last) >= WAITING_PERIOD;
        let others = node.knowledge.others();
        node.clock_pairs
            .retain(&others.iter().map(|(other, _)| *other).collect());
        for other in others {
            if everybody || !node.clock_pairs.knows(other.0) {
                bursts.begin(other.0, burst(Arc::clone(&node), other, wanted));
            }
        }
        if everybody {
            last = node.clocks.mono();
        }
        if wanted {
            sleep(UNMEASURED_PERIOD).await;
        }
    }
}

/// The measurements that are under way.
#[derive(Debug)]
struct Bursts {
    running: JoinSet<()>,
    /// With whom.
    with: Arc<Mutex<BTreeSet<NodeId>>>,
    places: Arc<Semaphore>,
}

impl Default for Bursts {
    fn default() -> Bursts {
        Bursts {
            running: JoinSet::new(),
            with: Arc::default(),
            places: Arc::new(Semaphore::new(BURSTS_MAX)),
        }
    }
}

impl Bursts {
    /// Begins a measurement, if there is none of the same node.
    fn begin(&mut self, other: NodeId, burst: impl Future<Output = ()> + Send + 'static) {
        while self.running.try_join_next().is_some() {}
        if !locked(&self.with).insert(other) {
            return;
        }
        let (with, places) = (Arc::clone(&self.with), Arc::clone(&self.places));
        self.running.spawn(async move {
            // The semaphore is never closed.
            let place = places.acquire().await;
            burst.await;
            drop(place);
            locked(&with).remove(&other);
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures one. When the plan waits for it the loop is woken: whom it still lacks is another's
/// question.
async fn burst(node: Arc<Node>, (other, address): (NodeId, SocketAddr), wanted: bool) {
    for _ in 0..BURST {
        match node.peers.measure_clock(other, address).await {
            Ok(times) => node.clock_pairs.take(other, &times),
            Err(error) => {
                debug!("the clock of {} was not measured: {error}", other.short());
                break;
            }
        }
    }
    if wanted {
        node.knowledge.changed.notify_one();
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
    node.distrust.send_replace(Arc::new(distrust.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::time::timeout;
    use uuid::Uuid;

    fn node(number: usize) -> NodeId {
        NodeId(Uuid::from_u128(number as u128 + 1))
    }

    async fn told(of: NodeId, told: UnboundedSender<NodeId>) {
        told.send(of).unwrap();
    }

    async fn next(told: &mut UnboundedReceiver<NodeId>) -> Option<NodeId> {
        timeout(Duration::from_millis(200), told.recv())
            .await
            .ok()?
    }

    #[tokio::test]
    async fn nobody_waits_for_one_that_gives_no_answer() {
        let mut bursts = Bursts::default();
        let (tell, mut hear) = unbounded_channel();
        bursts.begin(node(0), std::future::pending());
        for _ in 0..3 {
            bursts.begin(node(1), told(node(1), tell.clone()));
            assert_eq!(next(&mut hear).await, Some(node(1)));
            // Its place is free again once the task has gone on.
            tokio::task::yield_now().await;
        }
        bursts.begin(node(0), told(node(0), tell));
        assert_eq!(next(&mut hear).await, None, "it was asked twice at once");
    }

    #[tokio::test]
    async fn so_many_at_once_and_no_more() {
        let mut bursts = Bursts::default();
        let (tell, mut hear) = unbounded_channel();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        bursts.begin(node(0), async move { held.await.unwrap_or_default() });
        for number in 1..BURSTS_MAX {
            bursts.begin(node(number), std::future::pending());
        }
        bursts.begin(node(99), told(node(99), tell));
        assert_eq!(next(&mut hear).await, None, "there was a place too many");
        release.send(()).unwrap();
        assert_eq!(next(&mut hear).await, Some(node(99)));
    }
}
