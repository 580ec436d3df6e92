//! Tells a person how far the demo has come: a line for each phase with the time it took.
//!
//! On a terminal the line of the phase under way is redrawn. Must not know what the phases do.

use super::interrupt::Interrupted;
use crate::clock::Clocks;
use anyhow::Result;
use pgaa_core::time::Mono;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often the line is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// What fits on the narrowest usual terminal; a longer line could not be taken back.
const COLUMNS_MAX: usize = 79;
const ERASE_LINE: &str = "\r\x1b[2K";

/// Where progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// To the one who reads the results.
    Out,
    /// Beside the results, which are for a program.
    Err,
}

/// The teller.
#[derive(Debug)]
pub struct Progress {
    stream: Stream,
    redraws: bool,
    clocks: Clocks,
    phase_began: Mono,
    told: String,
}

impl Progress {
    /// Starts telling.
    #[must_use]
    pub fn new(stream: Stream) -> Progress {
        let redraws = match stream {
            Stream::Out => io::stdout().is_terminal(),
            Stream::Err => io::stderr().is_terminal(),
        };
        let clocks = Clocks::start();
        Progress {
            stream,
            redraws,
            clocks,
            phase_began: clocks.mono(),
            told: String::new(),
        }
    }

    /// One line that isn't a phase.
    pub fn say(&self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    /// Runs a phase to its end. `detail` says how far it has come; a change of it is a line of its
    /// own where nothing can be redrawn. The phase's line becomes what `summary` says of the
    /// result.
    pub async fn phase<T>(
        &mut self,
        doing: &str,
        detail: impl Fn() -> String,
        work: impl Future<Output = Result<T>>,
        summary: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        self.phase_began = self.clocks.mono();
        self.told.clear();
        let mut ticks = interval(REDRAW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => self.tick(doing, &detail()),
            }
        };
        let erase = if self.redraws { ERASE_LINE } else { "" };
        match &result {
            Ok(value) => self.write(&format!("{erase}{}\n", self.line(&summary(value)))),
            Err(error) if error.is::<Interrupted>() => {
                self.write(&format!(
                    "{erase}{}\n",
                    self.line(&format!("{doing}: interrupted"))
                ));
            }
            Err(_) => self.write(&format!(
                "{erase}{}\n",
                self.line(&format!("{doing}: failed"))
            )),
        }
        result
    }

    fn tick(&mut self, doing: &str, detail: &str) {
        let text = match detail {
            "" => format!("{doing} ..."),
            detail => format!("{doing}: {detail}"),
        };
        if self.redraws {
            let line = cut(&self.line(&text));
            self.write(&format!("{ERASE_LINE}{line}"));
        } else if !detail.is_empty() && self.told != detail {
            self.write(&format!("{}\n", self.line(&text)));
            detail.clone_into(&mut self.told);
        }
    }

    fn line(&self, text: &str) -> String {
        let seconds = self.clocks.mono().since(self.phase_began).as_secs_f64();
        format!("{seconds:6.2} s  {text}")
    }

    fn write(&self, text: &str) {
        // Nobody may be reading any more; the demo goes on, and is removed, all the same.
        let _ = match self.stream {
            Stream::Out => print_to(&mut io::stdout(), text),
            Stream::Err => print_to(&mut io::stderr(), text),
        };
    }
}

fn print_to(stream: &mut impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn cut(line: &str) -> String {
    line.chars().take(COLUMNS_MAX).collect()
}
