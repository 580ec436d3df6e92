//! A connection to a server in PostgreSQL's own protocol ("Frontend/Backend Protocol" in its
//! manual), for what the driver can't do: to make a slot that exports its snapshot, and to pass
//! rows on as they come, many at a time.
//!
//! Speaks the simple query protocol alone, logs in by certificate or by the name of the process's
//! account, never by a password, and does nothing again. A connection that met an error is thrown
//! away. Must not know what the statements mean.

mod link;
mod message;

use bytes::{Bytes, BytesMut};
use link::Link;
pub use message::Refusal;
use message::{Kind, Rows};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How many bytes of rows are passed on at once.
const CHUNK: usize = 256 * 1024;

/// How many bytes are read at once, at most.
const READ: usize = 256 * 1024;

/// How long a connection may take to be ready for a query, where its string doesn't say.
const CONNECT_S: u64 = 5;

/// A server did not do what it was asked.
#[derive(Debug, Error)]
pub enum WireError {
    /// The connection string lacks a word, or has one that can't be used here.
    #[error("the connection string's {0} is of no use")]
    Unfit(&'static str),
    /// A statement can't be sent.
    #[error("a statement holds a zero byte")]
    ZeroByte,
    /// No connection could be made.
    #[error("no connection to {place}")]
    Unreachable {
        /// Which server.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// It was not ready in time.
    #[error("{place} was not ready for a query within {} s", within.as_secs())]
    TimedOut {
        /// Which server.
        place: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The connection broke.
    #[error("the connection to {place} broke")]
    Lost {
        /// Which server.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("{place} refused: {refusal}")]
    Refused {
        /// Which server.
        place: String,
        /// Its words.
        refusal: Refusal,
    },
    /// It said something that doesn't fit.
    #[error("{place} answered {found}")]
    Unexpected {
        /// Which server.
        place: String,
        /// What.
        found: String,
    },
}

/// One connection, which waits for a query.
pub(super) struct Wire {
    link: Box<dyn Link>,
    place: String,
    /// What has come and wasn't read yet.
    have: BytesMut,
    /// Where the rows of a copy stand.
    rows: Rows,
}

/// What a connection string says.
pub(super) type Words = BTreeMap<String, String>;

impl Wire {
    /// Connects as libpq would by this connection string, and with these words of the protocol's
    /// first message besides.
    pub(super) async fn connect(words: &Words, more: &[(&str, &str)]) -> Result<Wire, WireError> {
        let place = link::place(words);
        let seconds = words.get("connect_timeout").and_then(|s| s.parse().ok());
        let within = Duration::from_secs(seconds.unwrap_or(CONNECT_S));
        let opened = async {
            let mut wire = Wire {
                link: link::open(words, &place).await?,
                place: place.clone(),
                have: BytesMut::new(),
                rows: Rows::default(),
            };
            wire.log_in(words, more).await?;
            Ok(wire)
        };
        let opened = tokio::time::timeout(within, opened).await;
        opened.unwrap_or(Err(WireError::TimedOut { place, within }))
    }

    async fn log_in(&mut self, words: &Words, more: &[(&str, &str)]) -> Result<(), WireError> {
        let mut said = Vec::new();
        for (theirs, ours) in [("user", "user"), ("database", "dbname")] {
            let value = words.get(ours).ok_or(WireError::Unfit(ours))?;
            said.push((theirs, value.as_str()));
        }
        said.extend_from_slice(more);
        self.send(&message::start_up(&said)).await?;
        loop {
            match self.next().await? {
                (Kind::Authentication, body) if message::is_let_in(&body) => {}
                (Kind::Authentication, _) => {
                    let text = "with a question for a password: its pg_hba.conf has no line for \
                                this role by certificate";
                    return Err(self.unexpected(text));
                }
                (Kind::Ready, _) => return Ok(()),
                (Kind::Refusal, body) => return Err(self.refused(&body)),
                (_, _) => {}
            }
        }
    }

    /// Runs statements, and returns the rows of all of them as texts; NULL is an empty one.
    pub(super) async fn query(&mut self, text: &str) -> Result<Vec<Vec<String>>, WireError> {
        self.ask(text).await?;
        let mut rows = Vec::new();
        loop {
            match self.next().await? {
                (Kind::Row, body) => {
                    let row = message::row(&body);
                    rows.push(row.ok_or_else(|| self.unexpected("a row that is cut short"))?);
                }
                (Kind::Ready, _) => return Ok(rows),
                (Kind::Refusal, body) => return Err(self.refused(&body)),
                (_, _) => {}
            }
        }
    }

    /// Sends statements, whose answers are read later. Several may be on their way: the server
    /// answers them one after the other.
    pub(super) async fn ask(&mut self, text: &str) -> Result<(), WireError> {
        let query = message::query(text).ok_or(WireError::ZeroByte)?;
        self.send(&query).await
    }

    /// Waits until the rows of a copy begin, by a statement that was asked.
    pub(super) async fn copy_begins(&mut self) -> Result<(), WireError> {
        loop {
            match self.next().await? {
                (Kind::CopyOut, _) => return Ok(()),
                (Kind::Refusal, body) => return Err(self.refused(&body)),
                (Kind::Ready, _) => return Err(self.unexpected("nothing that could be copied")),
                (_, _) => {}
            }
        }
    }

    /// The next rows of the copy, in its own format, many at once; they may end within one. `None`
    /// when the server has said that these were all.
    pub(super) async fn copied(&mut self) -> Result<Option<Bytes>, WireError> {
        let mut rows = BytesMut::with_capacity(CHUNK);
        while self.rows.pass_on(&mut self.have, &mut rows, CHUNK) {
            self.read().await?;
        }
        if !rows.is_empty() {
            return Ok(Some(rows.freeze()));
        }
        let mut complete = false;
        loop {
            match self.next().await? {
                (Kind::Complete, _) => complete = true,
                (Kind::Ready, _) if complete => return Ok(None),
                (Kind::Ready, _) => return Err(self.unexpected("no end of the copy")),
                (Kind::Refusal, body) => return Err(self.refused(&body)),
                (_, _) => {}
            }
        }
    }

    /// One message.
    async fn next(&mut self) -> Result<(Kind, Bytes), WireError> {
        loop {
            match message::take(&mut self.have) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.read().await?,
                Err(found) => return Err(self.unexpected(found)),
            }
        }
    }

    async fn read(&mut self) -> Result<(), WireError> {
        self.have.reserve(READ);
        let read = self.link.read_buf(&mut self.have).await;
        match read {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.lost(source)),
        }
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), WireError> {
        let sent = async {
            self.link.write_all(message).await?;
            self.link.flush().await
        };
        sent.await.map_err(|source| self.lost(source))
    }

    fn lost(&self, source: io::Error) -> WireError {
        let place = self.place.clone();
        WireError::Lost { place, source }
    }

    fn refused(&self, body: &[u8]) -> WireError {
        let place = self.place.clone();
        let refusal = message::refusal(body);
        WireError::Refused { place, refusal }
    }

    fn unexpected(&self, found: &str) -> WireError {
        WireError::Unexpected {
            place: self.place.clone(),
            found: found.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
