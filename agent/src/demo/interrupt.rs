//! Ctrl-C and its relatives: noticed once, asked for between steps.
//!
//! Work under way isn't dropped: a step that starts a process ends first, so that nothing is
//! started behind the back of the one who removes it all.

use anyhow::{Context, Result};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Somebody wants the demo to end.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether somebody wants the demo to end.
#[derive(Debug, Clone)]
pub struct Interrupt {
    came: watch::Receiver<bool>,
}

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on.
    pub fn listen() -> Result<Interrupt> {
        let listen = |kind| signal(kind).context("signals can't be listened for");
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        let (sender, came) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                sender.send_replace(true);
            }
        });
        Ok(Interrupt { came })
    }

    /// Stops here if somebody wants the demo to end.
    pub fn check(&self) -> Result<(), Interrupted> {
        if *self.came.borrow() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits until somebody does.
    pub async fn wait(&mut self) {
        // The sender lives as long as the runtime; without it nobody can interrupt any more.
        let _ = self.came.wait_for(|came| *came).await;
    }
}
