//! The command line's end of the control sockets.
//!
//! A `status` is a whole process that shall take less than 10 ms, so nothing is read or started
//! here that the request doesn't need.

use super::{Act, ActOutcome, READERS_GROUP};
use crate::events::Event;
use hyper_util::rt::TokioIo;
use pgaa_core::conflicts::report::Query;
use pgaa_core::verify::{Mending, Wish};
use pgaa_proto::v1 as wire;
use pgaa_proto::v1::control_client::ControlClient;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// How long an agent may take to tell its status. It answers from memory, so a longer silence
/// means that it hangs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long looking something up in the database may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an act may take: a restart of PostgreSQL waits for a checkpoint.
const ACT_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the sockets are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sockets {
    /// This one.
    One(PathBuf),
    /// The two in this directory: agent.sock where permitted, else read.sock.
    Directory(PathBuf),
}

/// The agent could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}; start it with: systemctl start pgaa-agent", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket's mode, or the agent, says no.
    #[error("{text}")]
    Permission {
        /// Why, and what to do.
        text: String,
    },
    /// It did not answer in time.
    #[error(
        "the agent at {} did not answer within {} s; what hangs is in: journalctl -u pgaa-agent",
        path.display(), after.as_secs()
    )]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// It answered with an error.
    #[error("the agent says: {text}")]
    Answered {
        /// What it says.
        text: String,
    },
    /// The connection broke, or the answer makes no sense.
    #[error(
        "the connection to the agent at {} broke: {text}; look at: journalctl -u pgaa-agent",
        path.display()
    )]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        text: String,
    },
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    inner: ControlClient<Channel>,
    path: PathBuf,
    patience: Duration,
}

fn not_permitted(path: &Path) -> ClientError {
    let text = format!(
        "{} may not be opened; members of group {READERS_GROUP} can read the status (sudo adduser \
         $USER {READERS_GROUP}, then log in again), root and postgres can do everything (sudo \
         pgaa-agent ...)",
        path.display()
    );
    ClientError::Permission { text }
}

async fn open(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).await.map_err(|error| {
        let kind = error.kind();
        if matches!(
            kind,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        ) {
            ClientError::NotRunning {
                path: path.to_owned(),
            }
        } else if kind == io::ErrorKind::PermissionDenied {
            not_permitted(path)
        } else {
            ClientError::Broken {
                path: path.to_owned(),
                text: error.to_string(),
            }
        }
    })
}

async fn open_any(sockets: &Sockets) -> Result<(UnixStream, PathBuf), ClientError> {
    let directory = match sockets {
        Sockets::One(path) => return Ok((open(path).await?, path.clone())),
        Sockets::Directory(directory) => directory,
    };
    let full = directory.join("agent.sock");
    match open(&full).await {
        Ok(stream) => Ok((stream, full)),
        Err(ClientError::Permission { .. }) => {
            let read = directory.join("read.sock");
            Ok((open(&read).await?, read))
        }
        Err(other) => Err(other),
    }
}

impl Client {
    /// Connects.
    pub async fn connect(sockets: &Sockets) -> Result<Client, ClientError> {
        let (stream, path) = open_any(sockets).await?;
        // The connector is called once, for the connection that is open already: so that what
        // `open` found out is not lost in a transport error.
        let once = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)) }
        });
        let endpoint = Endpoint::from_static("http://agent");
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| ClientError::Broken {
                path: path.clone(),
                text: error.to_string(),
            })?;
        Ok(Client {
            inner: ControlClient::new(channel),
            path,
            patience: STATUS_TIMEOUT,
        })
    }

    /// The same, waiting this long for an answer that the agent has in memory.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Client {
        Client { patience, ..self }
    }

    fn failed(&self, status: &Status) -> ClientError {
        let text = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied => ClientError::Permission { text },
            Code::InvalidArgument
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Internal
            | Code::FailedPrecondition
            | Code::NotFound => ClientError::Answered { text },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::Unauthenticated => ClientError::Broken {
                path: self.path.clone(),
                text,
            },
        }
    }

    fn timed_out(&self, after: Duration) -> ClientError {
        ClientError::TimedOut {
            path: self.path.clone(),
            after,
        }
    }

    /// The newest report, as the agent wrote it.
    pub async fn status(&mut self) -> Result<String, ClientError> {
        let asked = self.inner.status(wire::StatusRequest {});
        match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().json),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timed_out(self.patience)),
        }
    }

    /// The newest report, and each one after it.
    pub async fn watch_status(&mut self) -> Result<Documents, ClientError> {
        let asked = self.inner.watch_status(wire::StatusRequest {});
        match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(Documents {
                inner: answer.into_inner(),
            }),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timed_out(self.patience)),
        }
    }

    /// Events since `since_ms` (Unix time), and with `follow` those to come.
    pub async fn events(&mut self, since_ms: i64, follow: bool) -> Result<Documents, ClientError> {
        let asked = self.inner.events(wire::EventsRequest { since_ms, follow });
        match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(Documents {
                inner: answer.into_inner(),
            }),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timed_out(self.patience)),
        }
    }

    /// The conflicts that this agent's node has met.
    pub async fn conflicts(&mut self, query: Query) -> Result<String, ClientError> {
        let pair = query.pair.map(|(one, other)| vec![one, other]);
        let asked = self.inner.conflicts(wire::ConflictsRequest {
            since_ms: query.since.0,
            table: query.table.unwrap_or_default(),
            pair: pair.unwrap_or_default(),
            limit: query.limit,
        });
        match timeout(LOOK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().json),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timed_out(LOOK_TIMEOUT)),
        }
    }

    /// Asks the agent to do something.
    pub async fn act(&mut self, act: Act) -> Result<ActOutcome, ClientError> {
        let asked = self.inner.act(wire::ActRequest::from(act));
        let reply = match timeout(ACT_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(self.failed(&status)),
            Err(_) => return Err(self.timed_out(ACT_TIMEOUT)),
        };
        let wire::ActReply { done, text, json } = reply;
        let json = if json.is_empty() {
            Ok(serde_json::Value::Null)
        } else {
            json.parse()
        };
        let json = json.map_err(|error: serde_json::Error| ClientError::Broken {
            path: self.path.clone(),
            text: error.to_string(),
        })?;
        Ok(ActOutcome { done, text, json })
    }

    /// Compares tables on all nodes: progress, and one report at the end.
    pub async fn verify(&mut self, wish: Wish) -> Result<Documents, ClientError> {
        let asked = self.inner.verify(wire::VerifyRequest {
            tables: wish.tables,
            eager: wish.eager,
            mending: match wish.mending {
                Mending::None => 0,
                Mending::Told => 1,
                Mending::Done => 2,
            },
            resume: wish.resume,
        });
        match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(Documents {
                inner: answer.into_inner(),
            }),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.timed_out(self.patience)),
        }
    }

    /// The next document of a stream; `None` at its end.
    pub async fn next(&self, documents: &mut Documents) -> Result<Option<String>, ClientError> {
        let next = documents
            .inner
            .message()
            .await
            .map_err(|status| self.failed(&status))?;
        Ok(next.map(|document| document.json))
    }

    /// Reads an event.
    pub fn read_event(&self, json: &str) -> Result<Event, ClientError> {
        serde_json::from_str(json).map_err(|error| ClientError::Broken {
            path: self.path.clone(),
            text: format!("an event can't be read ({error})"),
        })
    }

    /// The socket that answers.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A stream of JSON documents.
#[derive(Debug)]
pub struct Documents {
    inner: Streaming<wire::Document>,
}
