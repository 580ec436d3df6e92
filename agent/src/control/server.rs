//! Serves the control sockets.

use super::listener::{self, Access};
use super::{Act, ActOutcome, ControlHost, READERS_GROUP, read_act};
use crate::config::PathSettings;
use crate::durable;
use crate::events::{Event, Events};
use log::{debug, warn};
use nix::unistd::Uid;
use pgaa_core::conflicts::report::Query;
use pgaa_core::status::StatusReport;
use pgaa_core::time::Wall;
use pgaa_core::verify::{Mending, News, Wish};
use pgaa_proto::v1 as wire;
use pgaa_proto::v1::control_server::{Control, ControlServer};
use serde::Serialize;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Serves both sockets until `shutdown` is true, and removes them then.
pub async fn serve(
    paths: &PathSettings,
    host: Arc<dyn ControlHost>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    durable::make_directory(&paths.run_dir, 0o755)?;
    let full = listener::bind(&paths.agent_socket(), Access::Full)?;
    let read = listener::bind(&paths.read_socket(), Access::Read)?;
    let served = tokio::try_join!(
        serve_one(full, Access::Full, host.clone(), shutdown.clone()),
        serve_one(read, Access::Read, host, shutdown),
    );
    for path in [paths.agent_socket(), paths.read_socket()] {
        if let Err(error) = durable::remove(&path) {
            debug!("{error}");
        }
    }
    served?;
    Ok(())
}

async fn serve_one(
    listener: UnixListener,
    access: Access,
    host: Arc<dyn ControlHost>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let incoming = Incoming {
        listener,
        access,
        own: Uid::effective(),
    };
    let service = ControlServer::new(Service {
        host,
        access,
        shutdown: shutdown.clone(),
    });
    let ended = async move {
        // A sender that is gone means the same as a shutdown.
        let _ = shutdown.wait_for(|down| *down).await;
    };
    Server::builder()
        .serve_with_incoming_shutdown(service, incoming, ended)
        .await
}

/// Accepts connections, and for [`Access::Full`] only those of root and of the agent's own user.
/// The socket's mode says the same; this holds also where somebody has changed the mode.
struct Incoming {
    listener: UnixListener,
    access: Access,
    own: Uid,
}

impl Incoming {
    fn admits(&self, stream: &UnixStream) -> bool {
        if self.access == Access::Read {
            return true;
        }
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == self.own.as_raw() => true,
            Ok(peer) => {
                warn!(
                    "user id {} was turned away from the agent's socket",
                    peer.uid()
                );
                false
            }
            Err(error) => {
                warn!("a caller whose user can't be seen was turned away: {error}");
                false
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) if self.admits(&stream) => return Poll::Ready(Some(Ok(stream))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

struct Service {
    host: Arc<dyn ControlHost>,
    access: Access,
    shutdown: watch::Receiver<bool>,
}

fn document<T: Serialize>(value: &T) -> Result<wire::Document, Status> {
    let json = serde_json::to_string(value)
        .map_err(|error| Status::internal(format!("the report can't be written: {error}")))?;
    Ok(wire::Document { json })
}

#[tonic::async_trait]
impl Control for Service {
    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::Document>, Status> {
        let report = self.host.status().borrow().clone();
        document(report.as_ref()).map(Response::new)
    }

    type WatchStatusStream = Feed<wire::Document, ReportState>;

    async fn watch_status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let mut reports = self.host.status();
        reports.mark_changed();
        Ok(Response::new(Feed::new(
            (reports, self.shutdown.clone()),
            |state| Box::pin(next_report(state)),
        )))
    }

    type EventsStream = Feed<wire::Document, EventFeed>;

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let wire::EventsRequest { since_ms, follow } = request.into_inner();
        let events = self.host.events();
        // Subscribed to before the past is read, so that nothing falls between; what is in both
        // is passed over by `EventFeed::is_old`.
        let live = follow.then(|| events.follow());
        let feed = EventFeed::new(events, Wall(since_ms), live, self.shutdown.clone());
        Ok(Response::new(Feed::new(feed, |state| {
            Box::pin(next_event(state))
        })))
    }

    async fn act(
        &self,
        request: Request<wire::ActRequest>,
    ) -> Result<Response<wire::ActReply>, Status> {
        self.may_act()?;
        let act = read_act(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let act: Act = act.ok_or_else(|| {
            Status::unimplemented(
                "this agent is older than the command line and doesn't know that; restart it \
                 (systemctl restart pgaa-agent)",
            )
        })?;
        let ActOutcome { done, text, json } = self.host.act(act).await;
        let json = if json.is_null() {
            String::new()
        } else {
            json.to_string()
        };
        Ok(Response::new(wire::ActReply { done, text, json }))
    }

    type VerifyStream = Feed<wire::Document, NewsState>;

    async fn verify(
        &self,
        request: Request<wire::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        // Even where it changes nothing it costs the servers time.
        self.may_act()?;
        let wire::VerifyRequest {
            tables,
            eager,
            mending,
            resume,
        } = request.into_inner();
        let mending = match mending {
            0 => Mending::None,
            1 => Mending::Told,
            2 => Mending::Done,
            _ => {
                let text = "this agent knows no such way of mending; upgrade it";
                return Err(Status::invalid_argument(text));
            }
        };
        let news = self.host.verify(Wish {
            tables,
            eager,
            mending,
            resume,
        });
        let news = news.map_err(|error| Status::failed_precondition(format!("{error:#}")))?;
        Ok(Response::new(Feed::new(
            (news, self.shutdown.clone()),
            |state| Box::pin(next_news(state)),
        )))
    }

    async fn conflicts(
        &self,
        request: Request<wire::ConflictsRequest>,
    ) -> Result<Response<wire::Document>, Status> {
        let wire::ConflictsRequest {
            since_ms,
            table,
            pair,
            limit,
        } = request.into_inner();
        let pair = match pair.as_slice() {
            [] => None,
            [one, other] => Some((one.clone(), other.clone())),
            _ => return Err(Status::invalid_argument("a pair is two nodes")),
        };
        let query = Query {
            since: Wall(since_ms),
            table: Some(table).filter(|table| !table.is_empty()),
            pair,
            limit,
        };
        let told = self.host.conflicts(query).await;
        let told = told.map_err(|error| Status::failed_precondition(format!("{error:#}")))?;
        document(&told).map(Response::new)
    }
}

impl Service {
    fn may_act(&self) -> Result<(), Status> {
        match self.access {
            Access::Full => Ok(()),
            Access::Read => Err(Status::permission_denied(format!(
                "read.sock only tells, and is for the group {READERS_GROUP}; ask agent.sock as \
                 root or as the agent's user (sudo -u postgres pgaa-agent ...)"
            ))),
        }
    }
}

type NewsState = (mpsc::Receiver<News>, watch::Receiver<bool>);

async fn next_news((mut news, mut down): NewsState) -> Step<wire::Document, NewsState> {
    let told = tokio::select! {
        told = news.recv() => told?,
        _ = down.wait_for(|down| *down) => return None,
    };
    Some((document(&told), (news, down)))
}

type ReportState = (watch::Receiver<Arc<StatusReport>>, watch::Receiver<bool>);

async fn next_report((mut reports, mut down): ReportState) -> Step<wire::Document, ReportState> {
    tokio::select! {
        changed = reports.changed() => changed.ok()?,
        _ = down.wait_for(|down| *down) => return None,
    }
    let report = reports.borrow_and_update().clone();
    Some((document(report.as_ref()), (reports, down)))
}

struct EventFeed {
    past: VecDeque<Event>,
    /// The last events of the past: those a live feed may bring again.
    last: VecDeque<Event>,
    live: Option<broadcast::Receiver<Event>>,
    down: watch::Receiver<bool>,
}

impl EventFeed {
    fn new(
        events: &Events,
        since: Wall,
        live: Option<broadcast::Receiver<Event>>,
        down: watch::Receiver<bool>,
    ) -> EventFeed {
        let past: VecDeque<Event> = events.since(since).into();
        // No more than the broadcast's capacity can have been recorded in between.
        let last = past.iter().rev().take(256).cloned().collect();
        EventFeed {
            past,
            last,
            live,
            down,
        }
    }

    fn is_old(&mut self, event: &Event) -> bool {
        let found = self.last.iter().position(|old| old == event);
        found.and_then(|index| self.last.remove(index)).is_some()
    }
}

async fn next_event(mut feed: EventFeed) -> Step<wire::Document, EventFeed> {
    if let Some(event) = feed.past.pop_front() {
        return Some((document(&event), feed));
    }
    loop {
        let live = feed.live.as_mut()?;
        let received = tokio::select! {
            received = live.recv() => received,
            _ = feed.down.wait_for(|down| *down) => return None,
        };
        match received {
            Ok(event) if feed.is_old(&event) => {}
            Ok(event) => return Some((document(&event), feed)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let text = format!("{missed} events were too fast to follow; ask for them again");
                return Some((Err(Status::data_loss(text)), feed));
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

type Step<T, S> = Option<(Result<T, Status>, S)>;
type StepFuture<T, S> = Pin<Box<dyn Future<Output = Step<T, S>> + Send>>;

/// A stream of answers made one after another from a state. No task stands behind it: it ends
/// with the connection that reads it.
struct Feed<T, S> {
    step: fn(S) -> StepFuture<T, S>,
    pending: Option<StepFuture<T, S>>,
}

impl<T, S> Feed<T, S> {
    fn new(state: S, step: fn(S) -> StepFuture<T, S>) -> Feed<T, S> {
        Feed {
            step,
            pending: Some(step(state)),
        }
    }
}

impl<T, S> Stream for Feed<T, S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pending) = self.pending.as_mut() else {
            return Poll::Ready(None);
        };
        let outcome = ready!(pending.as_mut().poll(context));
        let (item, state) = outcome.unzip();
        self.pending = state.map(self.step);
        Poll::Ready(item)
    }
}
