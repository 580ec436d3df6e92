//! The log: to systemd's journal with structured fields where standard error is the journal,
//! otherwise to standard error.

use crate::clock::Clocks;
use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::fmt::Write as _;
use std::io::Write as _;
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Our own crates; the libraries' talk below a warning would bury what we say.
const OWN_TARGETS: [&str; 2] = ["pgaa_agent", "pgaa_core"];

/// Sets the log up, once, before anything is logged. `node` stands in every entry of the journal.
pub fn init(level: LevelFilter, node: &str) -> anyhow::Result<()> {
    let sink: Box<dyn Log> = if connected_to_journal() {
        Box::new(JournalLog::new()?.with_extra_fields([("PGAA_NODE", node)]))
    } else {
        Box::new(StandardError {
            clocks: Clocks::start(),
        })
    };
    log::set_boxed_logger(Box::new(Filtered { sink, level }))?;
    log::set_max_level(level);
    Ok(())
}

struct Filtered {
    sink: Box<dyn Log>,
    level: LevelFilter,
}

impl Log for Filtered {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = OWN_TARGETS
            .iter()
            .any(|own| metadata.target().starts_with(own));
        let most = match own || self.level == LevelFilter::Trace {
            true => self.level,
            false => self.level.min(LevelFilter::Warn),
        };
        metadata.level() <= most
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.sink.log(record);
        }
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

struct StandardError {
    clocks: Clocks,
}

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = line(self.clocks.wall().0, record);
        // Nobody is left to be told when standard error is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// "2026-11-21T00:38:09.123Z WARN  pgaa_agent::peer: message key=value".
fn line(wall_ms: i64, record: &Record<'_>) -> String {
    let time = Timestamp::from_millisecond(wall_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let level = match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    };
    // One entry is one line, whatever a peer has put into the message.
    let message = crate::cli::render::clean(&record.args().to_string());
    let mut line = format!("{time:.3} {level} {}: {message}", record.target());
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    line.push('\n');
    line
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = crate::cli::render::clean(&value.to_string());
        let _ = match value.contains(' ') {
            true => write!(self.0, " {key}={value:?}"),
            false => write!(self.0, " {key}={value}"),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_with_its_fields() {
        let fields = [("event", "edge_kicked"), ("why", "it was down")];
        let record = Record::builder()
            .level(Level::Warn)
            .target("pgaa_agent::x")
            .args(format_args!("two\nlines"))
            .key_values(&fields)
            .build();
        let expected = "2026-11-21T00:38:09.007Z WARN  pgaa_agent::x: two lines \
                        event=edge_kicked why=\"it was down\"\n";
        assert_eq!(line(1_795_221_489_007, &record), expected);
    }

    #[test]
    fn libraries_are_heard_from_warnings_up_only() {
        let filtered = Filtered {
            sink: Box::new(StandardError {
                clocks: Clocks::start(),
            }),
            level: LevelFilter::Debug,
        };
        let enabled = |target: &str, level: Level| {
            filtered.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled("pgaa_agent::peer", Level::Debug));
        assert!(!enabled("pgaa_agent::peer", Level::Trace));
        assert!(enabled("h2", Level::Warn) && !enabled("h2", Level::Info));
    }
}
