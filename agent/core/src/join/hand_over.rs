//! From one stream through the source to direct streams from every member, at positions that are
//! exact. Steps 2 to 4 of the protocol.

use super::Failure;
use super::host::{Forward, Host, Member, Step, StepAnswer};
use super::leases::Held;
use crate::ids::{DataEpoch, Lsn, NodeId, pglogical_node_name, subscription_name};
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

/// How long nothing of a member may arrive, while its agent answers, before the join starts over.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a stream may be without a worker before it is helped.
const REVIVE_EVERY: Duration = Duration::from_millis(1_000);

/// How often the source is made to flush what it applied, while it is waited for.
const NUDGES: usize = 20;

/// Between two such times.
const NUDGE_EVERY: Duration = Duration::from_millis(40);

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(10);

fn me<H: Host>(host: &H) -> Result<(NodeId, DataEpoch), Failure> {
    Ok((host.me(), host.epoch()?))
}

/// Makes this node's subscriptions, disabled: no slot need be there for that. Each takes several
/// connections, one after the other, which cost nothing while rows are copied.
pub(super) async fn subscribe<H: Host>(
    host: &H,
    source: &Member,
    members: &[Member],
) -> Result<(), Failure> {
    let me = me(host)?;
    for member in members {
        let name = subscription_name(me, (member.node, member.epoch));
        let forward = match member.node == source.node {
            true => Forward::All,
            false => Forward::Nothing,
        };
        host.subscribe(&name, member, forward).await?;
    }
    Ok(())
}

/// Follows the source from where the copy was taken, with everything it forwards, until its
/// newest heartbeat has arrived.
pub(super) async fn catch_up<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    start: Lsn,
) -> Result<(), Failure> {
    let name = subscription_name(me(host)?, (source.node, source.epoch));
    host.start(&name, start).await?;
    arrival(host, held, source, &[name]).await
}

fn unexpected(member: &Member) -> Failure {
    let name = &member.name;
    Failure(format!("{name} answered something else than was asked"))
}

/// Has a member write a heartbeat and waits until it is here, by way of `streams`.
async fn arrival<H: Host>(
    host: &H,
    held: &Held,
    member: &Member,
    streams: &[String],
) -> Result<(), Failure> {
    let StepAnswer::Heartbeat(number) = held.step(host, member, Step::Beat).await? else {
        return Err(unexpected(member));
    };
    let began = host.now();
    let mut revived = began;
    loop {
        let heartbeats = host.heartbeats().await?;
        let newest = heartbeats.get(&member.node);
        if newest.is_some_and(|(epoch, have)| *epoch == member.epoch && *have >= number) {
            return Ok(());
        }
        if host.now().since(began) > PATIENCE {
            return Err(Failure(format!("changes of {} do not arrive", member.name)));
        }
        if host.now().since(revived) > REVIVE_EVERY {
            host.revive(streams).await?;
            revived = host.now();
        }
        host.sleep(LOOK).await;
    }
}

/// The hand-over itself.
pub(super) async fn hand_over<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    members: &[Member],
) -> Result<(), Failure> {
    let others: Vec<&Member> = members.iter().filter(|m| m.node != source.node).collect();
    try_join_all(others.iter().map(|m| prepare(host, held, m))).await?;
    host.reached("prepared").await;
    let through = subscription_name(me(host)?, (source.node, source.epoch));
    // From here on the source's WAL tells how far it has applied each member.
    let StepAnswer::Position(since) = held.step(host, source, Step::InsertPosition).await? else {
        return Err(unexpected(source));
    };
    // Through the source: so it has passed the slot made above.
    arrivals_through(host, held, source, (&others, &through)).await?;
    let until = host.stop(&through).await?;
    host.reached("stopped").await;
    for member in &others {
        complete(host, held, source, member).await?;
    }
    let starts = starts(host, held, (source, &others), (since, until)).await?;
    host.reached("placed").await;
    host.hand_over(&through, &starts).await?;
    let streams: Vec<String> = starts.into_keys().chain([through]).collect();
    try_join_all(members.iter().map(|m| arrival(host, held, m, &streams))).await?;
    Ok(())
}

/// Waits for news of every other member by way of the source. What the source applies it flushes,
/// and so forwards, 200 ms later at most, unless something else of its own is flushed before.
async fn arrivals_through<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    (others, through): (&[&Member], &String),
) -> Result<(), Failure> {
    let stream = std::slice::from_ref(through);
    let all = pin!(try_join_all(
        others.iter().map(|m| arrival(host, held, m, stream))
    ));
    let nudged = pin!(async {
        for _ in 0..NUDGES {
            host.sleep(NUDGE_EVERY).await;
            // Whoever fails here fails at the next step as well, and there it is told.
            let _ = held.step(host, source, Step::Beat).await;
        }
        std::future::pending::<Failure>().await
    });
    match futures_util::future::select(all, nudged).await {
        futures_util::future::Either::Left((arrived, _)) => arrived.map(drop),
        futures_util::future::Either::Right((failure, _)) => Err(failure),
    }
}

/// Has the source read from its first slot on a member up to now? If that was lost, or made anew,
/// there may be a gap in what came through the source, and its record may not say so yet.
async fn complete<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    member: &Member,
) -> Result<(), Failure> {
    let theirs = (member.node, member.epoch);
    let subscription = subscription_name((source.node, source.epoch), theirs);
    match held
        .step(host, member, Step::FindSlot { subscription })
        .await?
    {
        StepAnswer::Absent => Err(Failure(format!(
            "{} lacks changes of {}: its slot there was lost",
            source.name, member.name
        ))),
        StepAnswer::Done
        | StepAnswer::Position(_)
        | StepAnswer::Heartbeat(_)
        | StepAnswer::Origins(_)
        | StepAnswer::Facts(_) => Ok(()),
    }
}

/// A slot on a member.
async fn prepare<H: Host>(host: &H, held: &Held, member: &Member) -> Result<(), Failure> {
    let subscription = subscription_name(me(host)?, (member.node, member.epoch));
    let step = Step::CreateSlot { subscription };
    held.step(host, member, step).await.map(drop)
}

/// Where each member's direct stream begins: after the last commit that the source had applied
/// when this node stopped to follow it.
async fn starts<H: Host>(
    host: &H,
    held: &Held,
    (source, others): (&Member, &[&Member]),
    (since, until): (Lsn, Lsn),
) -> Result<BTreeMap<String, Lsn>, Failure> {
    if others.is_empty() {
        return Ok(BTreeMap::new());
    }
    let step = Step::OriginPositions { since, until };
    let StepAnswer::Origins(positions) = held.step(host, source, step).await? else {
        return Err(unexpected(source));
    };
    let me = me(host)?;
    let mut starts = BTreeMap::new();
    for member in others {
        let theirs = (member.node, member.epoch);
        let provider = pglogical_node_name(member.node, member.epoch);
        let subscription = subscription_name((source.node, source.epoch), theirs);
        let suffix = format!("_{provider}_{subscription}");
        let found = positions
            .iter()
            .find(|(origin, _)| origin.ends_with(&suffix));
        let Some((_, start)) = found else {
            return Err(Failure(format!(
                "{} can't tell how far it had followed {}",
                source.name, member.name
            )));
        };
        starts.insert(subscription_name(me, theirs), *start);
    }
    Ok(starts)
}
