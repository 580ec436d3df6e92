//! Events and the outcomes of acts, for people.

use super::{Page, Tint, words};
use crate::events::{Event, Severity};

/// Writes one event as a paragraph.
pub fn event(page: &mut Page, event: &Event) {
    let tint = match event.severity {
        Severity::Info => Tint::Plain,
        Severity::Warning => Tint::Odd,
        Severity::Critical => Tint::Bad,
    };
    let label = format!("{}  ", words::time(event.at, &page.zone));
    page.paragraph(&label, tint, &format!("{}: {}", event.kind, event.text));
}
