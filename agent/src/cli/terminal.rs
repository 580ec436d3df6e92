//! What is known of standard output: its width, and whether colour is wanted.

use super::render::Page;
use jiff::tz::TimeZone;
use std::io::{self, IsTerminal, Write};
use terminal_size::{Width, terminal_size};

/// The width of a page that goes to no terminal.
const COLUMNS_OTHERWISE: usize = 100;

/// An empty page for standard output.
#[must_use]
pub fn page() -> Page {
    let terminal = io::stdout().is_terminal();
    let seen = terminal.then(terminal_size).flatten();
    let columns = seen.map(|(Width(columns), _)| usize::from(columns));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = columns.or_else(told).unwrap_or(COLUMNS_OTHERWISE);
    Page::new(columns, terminal && colour_is_wanted(), TimeZone::system())
}

/// no-color.org: any value but an empty one switches colour off.
fn colour_is_wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !refused && !dumb
}

/// Writes text to standard output.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a page over the one before. Lines are cleared one by one, so that nothing flickers.
pub fn redraw(text: &str) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        return print(&format!("{text}\n"));
    }
    print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
}
