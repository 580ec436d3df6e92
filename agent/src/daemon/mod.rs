//! The composition root: what ties the modules together, and the only place that spawns tasks.
//!
//! Everything an agent does runs in one of the tasks started here; when one of them ends, the
//! agent ends, and systemd starts it again.

mod act;
mod backup;
mod circle;
mod clock;
mod conflicts;
mod control_host;
mod exchange;
mod founding;
mod gossip;
mod join;
mod kept;
mod knowledge;
mod lease;
mod membership;
mod mesh_host;
mod node;
mod origins;
mod orphans;
mod pairing_host;
mod pressure;
mod proof;
mod reconciler;
mod rhythm;
mod rows;
mod store;
mod structure;
mod surroundings;
mod twins;
mod verify;

use crate::backup::PgBackRest;
use crate::clock::Clocks;
use crate::config::Settings;
use crate::events::{Events, Severity};
use crate::peer::{PairingClient, Peers};
use crate::postgres::Postgres;
use crate::restore::found;
use crate::telemetry::{Systemd, http};
use crate::trust::keyring::Keyring;
use crate::trust::{Authority, Credentials, Identity, JoinToken, TokenId, Tokens};
use crate::{control, durable, peer};
use anyhow::{Context, bail};
use knowledge::Knowledge;
use log::{info, warn};
use node::{Node, Parts};
use pgaa_core::founding::{DataHeld, Founding, Hello};
use pgaa_core::ids::{DataEpoch, NodeId};
use pgaa_core::record::Endpoints;
use pgaa_core::restore::found::Role;
use reconciler::Reconciler;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How many nodes may wait to be asked for their records.
const HINTS_MAX: usize = 1024;

/// Runs the agent until it is told to stop. A restart of the agent is no leave: nothing is
/// removed, and PostgreSQL goes on.
pub async fn run(settings: Settings, systemd: Systemd) -> anyhow::Result<()> {
    let clocks = Clocks::start();
    let node = Arc::new(assemble(settings, clocks)?);
    let start = format!(
        "agent {} of node {} ({}) started, generation {}",
        env!("CARGO_PKG_VERSION"),
        node.settings.node.name,
        node.id(),
        node.identity.generation()
    );
    node.event(Severity::Info, "started", start);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = spawn(&node, &systemd, &stopped).await?;
    let ended = tokio::select! {
        () = told_to_stop() => None,
        ended = tasks.join_next() => ended,
    };
    systemd.stopping();
    stop.send_replace(true);
    if let Err(error) = node.knowledge.store_roster() {
        warn!("the roster could not be stored: {error}");
    }
    match ended {
        None => {
            info!("told to stop; PostgreSQL goes on");
            Ok(())
        }
        Some(Ok((task, Ok(())))) => bail!("the task {task:?} ended, which it never should"),
        Some(Ok((task, Err(error)))) => Err(error.context(format!("the task {task:?} failed"))),
        Some(Err(error)) => Err(error).context("a task ended early"),
    }
}

async fn told_to_stop() {
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            warn!("signals can't be received: {error}");
            std::future::pending().await
        }
    }
}

/// Opens everything durable and puts the node together.
fn assemble(settings: Settings, clocks: Clocks) -> anyhow::Result<Node> {
    let directory = settings.paths.state_dir.clone();
    durable::make_directory(&directory, 0o700)?;
    not_on_the_way(&directory)?;
    let identity = Identity::open(&directory)?;
    let store = Store::new(&directory);
    let credentials = Arc::new(Credentials::open(&directory, identity.node(), clocks)?);
    let tokens = Tokens::open(&directory)?;
    let knowledge = Knowledge::load(identity.node(), store.clone())?;
    let member = knowledge.with_roster(|_| ()).is_some();
    let (token, token_file) = join_token(&settings, &tokens, member, clocks)?.unzip();
    let founding = Founding::restore(
        first_hello(&settings, &identity),
        &settings.policy,
        store.founding()?,
    );
    let pairing = PairingClient::new(
        Arc::clone(&credentials),
        settings.policy.cluster_name.clone(),
        token,
    );
    Ok(Node::new(Parts {
        token_file,
        clocks,
        events: Events::open(&directory),
        peers: Peers::new(Arc::clone(&credentials)),
        pairing,
        postgres: Arc::new(Postgres::new(&settings)),
        authority: Authority::load(&directory)?,
        keyring: Keyring::load(&directory)?,
        leases: lease::Leases::open(&directory)?,
        backups: backup::Backups::new(PgBackRest::new(&settings)),
        founding,
        knowledge,
        tokens,
        credentials,
        store,
        identity,
        settings,
    }))
}

/// With one half of the old mesh and one of the new a node must not speak.
fn not_on_the_way(state_dir: &Path) -> anyhow::Result<()> {
    let Some(journey) = found::under_way(state_dir)? else {
        return Ok(());
    };
    let command = match journey.role {
        Role::Founder => "pgaa-agent backup found --yes",
        Role::Joiner => "pgaa-agent backup join-anew --yes",
    };
    let text = format!("this node is on its way into a new mesh; end that first: {command}");
    Err(Misconfigured(anyhow::anyhow!(text)).into())
}

/// What a person has to correct before the agent can run.
#[derive(Debug, thiserror::Error)]
#[error("the agent can't start like this")]
pub struct Misconfigured(#[source] anyhow::Error);

/// The configured join token. A member needs it no more: it goes on without.
fn join_token(
    settings: &Settings,
    tokens: &Tokens,
    member: bool,
    clocks: Clocks,
) -> anyhow::Result<Option<(JoinToken, (TokenId, PathBuf))>> {
    let adopted = configured_token(settings).and_then(|(token, path)| {
        tokens.adopt(&token, clocks.wall())?;
        let id = token.id.clone();
        Ok((token, (id, path)))
    });
    match adopted {
        Ok(token) => Ok(Some(token)),
        Err(error) if member => {
            warn!("{error:#}; this node is a member already and goes on without");
            Ok(None)
        }
        Err(error) => Err(Misconfigured(error.context("the join token can't be used")).into()),
    }
}

/// The join token from the first of the configured files that exists, and that file.
fn configured_token(settings: &Settings) -> anyhow::Result<(JoinToken, PathBuf)> {
    for path in &settings.token_files {
        if let Some(bytes) = durable::read(path)? {
            let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
            let token = JoinToken::parse(text.trim())
                .with_context(|| format!("{} holds no valid join token", path.display()))?;
            return Ok((token, path.clone()));
        }
    }
    let places: Vec<String> = settings
        .token_files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    bail!(
        "there is no join token in {}: put one there (`pgaa-agent token create` on a member \
         prints one), then: systemctl restart pgaa-agent",
        places.join(" or ")
    )
}

/// What is known of this node before PostgreSQL was looked at.
fn first_hello(settings: &Settings, identity: &Identity) -> Hello {
    let address = settings
        .network
        .advertise
        .unwrap_or(settings.network.listen);
    let network = &settings.network;
    Hello {
        node: identity.node(),
        name: settings.node.name.clone(),
        cluster_name: settings.policy.cluster_name.clone(),
        endpoints: Endpoints {
            grpc: SocketAddr::new(address, network.grpc_port),
            gossip: SocketAddr::new(address, network.gossip_port),
            postgres: SocketAddr::new(address, settings.postgres.port),
        },
        generation: identity.generation(),
        epoch: DataEpoch(Uuid::nil()),
        system_identifier: 0,
        expect: settings.policy.expect,
        data: DataHeld::Unknown,
        cluster: None,
        enrols: false,
        promised: None,
        known: Vec::new(),
    }
}

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Starts every task.
async fn spawn(
    node: &Arc<Node>,
    systemd: &Systemd,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<Tasks> {
    let mut tasks = Tasks::new();
    let network = &node.settings.network;
    let address = (network.listen, network.grpc_port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "TCP port {1} of {0} can't be bound; who has it: ss -ltnp 'sport = :{1}'",
            address.0, address.1
        )
    })?;
    let served = peer::serve(
        listener,
        Arc::clone(&node.credentials),
        Arc::new(pairing_host::Answers(Arc::clone(node))),
        Arc::new(mesh_host::Answers(Arc::clone(node))),
        stop_rings(stopped.clone()),
    );
    tasks.spawn(async move { ("peers", served.await.map_err(Into::into)) });
    let (paths, stop) = (node.settings.paths.clone(), stopped.clone());
    let acts = Arc::new(control_host::Acts(Arc::clone(node)));
    tasks.spawn(async move { ("control", control::serve(&paths, acts, stop).await) });
    if let Some(address) = network.http {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the health port {address} can't be bound"))?;
        let status = node.status.subscribe();
        let clocks = node.clocks;
        tasks.spawn(async move { ("http", http::run(listener, status, clocks).await) });
    }
    let reconciler = Reconciler::new(Arc::clone(node), systemd.clone());
    endless(&mut tasks, "loop", reconciler.run());
    endless(&mut tasks, "clock", clock::watch_source(Arc::clone(node)));
    endless(&mut tasks, "conflicts", conflicts::run(Arc::clone(node)));
    endless(&mut tasks, "rivals", conflicts::settle(Arc::clone(node)));
    endless(&mut tasks, "jolts", clock::watch_jolts(Arc::clone(node)));
    endless(&mut tasks, "roster", rhythm::keep_roster(Arc::clone(node)));
    endless(
        &mut tasks,
        "certificate",
        rhythm::reload_certificates(Arc::clone(node)),
    );
    endless(&mut tasks, "proof", proof::run(Arc::clone(node)));
    endless(&mut tasks, "leases", lease::expire(Arc::clone(node)));
    endless(&mut tasks, "vouch", twins::prove(Arc::clone(node)));
    spawn_speakers(&mut tasks, node);
    let addresses = Arc::clone(node);
    endless(&mut tasks, "address", async move {
        rhythm::watch_address(addresses).await;
        std::future::pending().await
    });
    Ok(tasks)
}

/// What speaks in this node's name: not before a member has vouched for it.
fn spawn_speakers(tasks: &mut Tasks, node: &Arc<Node>) {
    let (hints, hinted) = mpsc::channel::<NodeId>(HINTS_MAX);
    let mut speaker = |name, task: Pin<Box<dyn Future<Output = ()> + Send>>| {
        endless(tasks, name, twins::while_vouched(Arc::clone(node), task));
    };
    let shared = || Arc::clone(node);
    speaker("exchange", Box::pin(exchange::run(shared(), hinted)));
    speaker("gossip", Box::pin(gossip::run(shared(), hints)));
    speaker("heartbeat", Box::pin(rhythm::beat(shared())));
    speaker("clocks", Box::pin(clock::measure(shared())));
    speaker("trust", Box::pin(rhythm::keep_trust(shared())));
    speaker("join", Box::pin(join::run(shared())));
    speaker("rows", Box::pin(rows::run(shared())));
    speaker("backup", Box::pin(backup::run(shared())));
    speaker("founding", Box::pin(founding::run(shared())));
}

async fn stop_rings(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same as one that says so.
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn endless(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        (name, Ok(()))
    });
}
