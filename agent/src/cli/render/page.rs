//! A page of text of some width, with or without colour.

use jiff::tz::TimeZone;
use std::fmt::Write;

/// Narrower than this nothing useful fits.
const COLUMNS_MIN: usize = 40;

/// A page that is being written.
#[derive(Debug, Clone)]
pub struct Page {
    text: String,
    columns: usize,
    colour: bool,
    /// The time zone in which times are shown.
    pub zone: TimeZone,
}

/// What a piece of text means; the colours follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tint {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Needs a look.
    Odd,
    /// Needs somebody.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

impl Tint {
    fn code(self) -> &'static str {
        match self {
            Tint::Plain => "",
            Tint::Good => "\x1b[32m",
            Tint::Odd => "\x1b[33m",
            Tint::Bad => "\x1b[1;31m",
            Tint::Faint => "\x1b[2m",
            Tint::Strong => "\x1b[1m",
        }
    }
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(columns: usize, colour: bool, zone: TimeZone) -> Page {
        Page {
            text: String::new(),
            columns: columns.max(COLUMNS_MIN),
            colour,
            zone,
        }
    }

    /// How many characters fit in a line.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What has been written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// `text` in the colour of `tint`, where there is colour.
    #[must_use]
    pub fn tinted(&self, tint: Tint, text: &str) -> String {
        match self.colour && tint != Tint::Plain {
            true => format!("{}{text}\x1b[0m", tint.code()),
            false => text.to_owned(),
        }
    }

    /// Writes a line as it is; trailing blanks are dropped.
    pub fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    /// Writes an empty line, unless the page is empty or has one at its end.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// Writes a heading after a gap, with a remark beside it.
    pub fn heading(&mut self, heading: &str, remark: &str) {
        self.gap();
        let heading = self.tinted(Tint::Strong, heading);
        let remark = self.tinted(Tint::Faint, &self.clean(remark));
        self.line(&format!("{heading}  {remark}"));
    }

    /// Writes a paragraph whose first line starts with `label`, wrapped to the page; the other
    /// lines are indented as deep as the label is wide.
    pub fn paragraph(&mut self, label: &str, tint: Tint, text: &str) {
        let indent = label.chars().count();
        let room = self.columns.saturating_sub(indent).max(20);
        for (index, line) in wrap(&self.clean(text), room).iter().enumerate() {
            let lead = if index == 0 {
                self.tinted(tint, label)
            } else {
                " ".repeat(indent)
            };
            self.line(&format!("{lead}{line}"));
        }
    }

    /// Text without control characters: what other machines say must not steer a terminal.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        clean(text)
    }
}

/// Text without control characters; ends of lines become blanks.
#[must_use]
pub fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => ' ',
        // Overrides of the writing direction can make a command read as another one.
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => '?',
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Breaks text at blanks into lines of at most `room` characters; a longer word is broken too.
#[must_use]
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (index, piece) in letters.chunks(room.max(1)).enumerate() {
            let fits = used + usize::from(used > 0) + piece.len() <= room && index == 0;
            if !fits && used > 0 {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                if used > 0 {
                    line.push(' ');
                    used += 1;
                }
                line.extend(piece);
                used += piece.len();
            }
        }
    }
    lines
}
