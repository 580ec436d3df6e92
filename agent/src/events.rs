//! What happened on this node, for people: kept on disk, shown by `pgaa-agent events`.
//!
//! An event is a fact that was acted on or that an operator should know of; it is not the log.

use crate::durable;
use log::warn;
use pgaa_core::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// How many events are kept, in memory and on disk.
const KEPT_MAX: usize = 2_000;

/// How serious an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Needs somebody.
    Critical,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by this node's clock.
    pub at: Wall,
    /// How serious.
    pub severity: Severity,
    /// A stable word for programs: "state_changed", "edge_kicked".
    pub kind: String,
    /// A sentence for people.
    pub text: String,
}

/// The journal of events.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    kept: Mutex<VecDeque<Event>>,
    feed: broadcast::Sender<Event>,
}

impl Events {
    /// Opens the journal in `state_dir`. Lines that can't be read are passed over: a damaged
    /// journal must not keep an agent from starting.
    #[must_use]
    pub fn open(state_dir: &Path) -> Events {
        let path = state_dir.join("events.jsonl");
        let bytes = durable::read(&path).unwrap_or_default().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut kept: VecDeque<Event> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        while kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        let events = Events {
            path,
            kept: Mutex::new(kept),
            feed: broadcast::channel(256).0,
        };
        events.compact();
        events
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compact(&self) {
        let lines: Vec<String> = self
            .lock()
            .iter()
            .filter_map(|event| serde_json::to_string(event).ok())
            .collect();
        let text = lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        if let Err(error) = durable::write(&self.path, text.as_bytes(), 0o600) {
            warn!("events can't be kept on disk: {error}");
        }
    }

    /// Records what happened, in the log as well.
    pub fn record(&self, event: Event) {
        let level = match event.severity {
            Severity::Info => log::Level::Info,
            Severity::Warning => log::Level::Warn,
            Severity::Critical => log::Level::Error,
        };
        log::log!(level, event = event.kind.as_str(); "{}", event.text);
        self.append(&event);
        let mut kept = self.lock();
        kept.push_back(event.clone());
        let full = kept.len() > 2 * KEPT_MAX;
        if full {
            while kept.len() > KEPT_MAX {
                kept.pop_front();
            }
        }
        drop(kept);
        if full {
            self.compact();
        }
        // Nobody may be listening; that is no error.
        let _ = self.feed.send(event);
    }

    fn append(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path);
        if let Err(error) = opened.and_then(|mut file| file.write_all(&line)) {
            warn!("an event can't be kept on disk: {error}");
        }
    }

    /// The events since `since`, oldest first.
    #[must_use]
    pub fn since(&self, since: Wall) -> Vec<Event> {
        self.lock()
            .iter()
            .filter(|event| event.at >= since)
            .cloned()
            .collect()
    }

    /// Events from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }
}
