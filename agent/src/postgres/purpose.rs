//! What a session is for: how patient it is, and how the server is to behave in it. Must not know
//! who asks.

use std::time::Duration;

/// What a session is for, which decides how patient it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Looking: must never wait for somebody's lock.
    Look,
    /// Short changes.
    Change,
    /// Steps that wait for other servers or for running transactions.
    Long,
    /// Copying whole tables: as long as it takes.
    Copy,
    /// Hashing a range of rows: values look the same on all nodes.
    Compare,
    /// Hashing whole tables: the same, for as long as it takes.
    CompareWhole,
    /// Reading the WAL for what it says of rows: values look the same on all nodes.
    Decode,
    /// Mending rows: must never wait long for somebody's lock.
    Repair,
    /// The heartbeat, whose commit needn't be flushed: a lost one is followed by the next.
    Beat,
    /// Writing the user's rows as an application does: the functions of triggers find what they
    /// look for.
    WriteBack,
    /// What was read in the log: what a crash takes back is read again.
    Record,
}

/// How long one statement of a copy may take: building an index over a large table is one.
const COPY_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Whatever roles and databases are set to, a value's text is the same on every node.
const COMPARABLE: &str = " -c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres \
                          -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C";

/// The same, without the four lines, each with its statement, that a server logs whenever somebody
/// begins to decode WAL: the agent does so every few seconds. What fails it tells itself.
const QUIETLY_COMPARABLE: &str = " -c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres \
                                  -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C \
                                  -c log_min_messages=fatal";

struct Limits {
    statement_ms: u64,
    lock_ms: u64,
}

impl Purpose {
    fn limits(self) -> Limits {
        match self {
            Purpose::Look => Limits {
                statement_ms: 3_000,
                lock_ms: 200,
            },
            Purpose::Change => Limits {
                statement_ms: 10_000,
                lock_ms: 3_000,
            },
            Purpose::Long => Limits {
                statement_ms: 60_000,
                lock_ms: 10_000,
            },
            Purpose::Copy | Purpose::CompareWhole => Limits {
                statement_ms: 0,
                lock_ms: 10_000,
            },
            Purpose::Compare | Purpose::WriteBack => Limits {
                statement_ms: 60_000,
                lock_ms: 3_000,
            },
            Purpose::Decode => Limits {
                statement_ms: 300_000,
                lock_ms: 3_000,
            },
            Purpose::Repair => Limits {
                statement_ms: 10_000,
                lock_ms: 2_000,
            },
            Purpose::Beat => Limits {
                statement_ms: 3_000,
                lock_ms: 1_000,
            },
            Purpose::Record => Limits {
                statement_ms: 20_000,
                lock_ms: 3_000,
            },
        }
    }

    /// How long an answer is awaited: a little longer than the server's own time-out, so that
    /// only a server that hangs altogether is given up from here.
    pub(super) fn patience(self) -> Duration {
        match self {
            Purpose::Copy | Purpose::CompareWhole => COPY_PATIENCE,
            Purpose::Look
            | Purpose::Change
            | Purpose::Long
            | Purpose::Compare
            | Purpose::Decode
            | Purpose::Repair
            | Purpose::Beat
            | Purpose::WriteBack
            | Purpose::Record => Duration::from_millis(self.limits().statement_ms + 1_500),
        }
    }

    pub(super) fn options(self) -> String {
        let Limits {
            statement_ms,
            lock_ms,
        } = self.limits();
        let own = match self {
            Purpose::Beat | Purpose::Record => " -c synchronous_commit=off",
            Purpose::Compare | Purpose::CompareWhole | Purpose::Repair => COMPARABLE,
            Purpose::Decode => QUIETLY_COMPARABLE,
            Purpose::Look
            | Purpose::Change
            | Purpose::Long
            | Purpose::Copy
            | Purpose::WriteBack => "",
        };
        let path = match self {
            Purpose::WriteBack => "",
            Purpose::Look
            | Purpose::Change
            | Purpose::Long
            | Purpose::Copy
            | Purpose::Compare
            | Purpose::CompareWhole
            | Purpose::Decode
            | Purpose::Repair
            | Purpose::Record
            | Purpose::Beat => " -c search_path=pg_catalog",
        };
        format!(
            "-c statement_timeout={statement_ms} -c lock_timeout={lock_ms} \
             -c idle_in_transaction_session_timeout=20000{path} -c jit=off \
             -c default_transaction_read_only=off -c client_min_messages=warning \
             -c session_replication_role=origin{own}"
        )
    }
}
