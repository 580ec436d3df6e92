//! Tells systemd how the service stands (sd_notify(3)). Without systemd it does nothing.

use log::debug;
use sd_notify::NotifyState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The line to systemd; every copy is the same line.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct Told {
    ready: AtomicBool,
    status: Mutex<String>,
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("systemd can't be told: {error}");
    }
}

impl Systemd {
    /// A line on which nothing has been said yet.
    #[must_use]
    pub fn new() -> Systemd {
        Systemd::default()
    }

    /// READY=1, the first time it is called.
    pub fn ready(&self) {
        if !self.told.ready.swap(true, Ordering::Relaxed) {
            notify(&[NotifyState::Ready]);
        }
    }

    /// WATCHDOG=1. To be called by the main loop alone, so that a loop that hangs is noticed.
    pub fn watchdog(&self) {
        notify(&[NotifyState::Watchdog]);
    }

    /// How often systemd wants to hear from the loop; `None` when it doesn't watch.
    #[must_use]
    pub fn watchdog_period(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    /// STATUS=, when it differs from the last.
    pub fn status(&self, text: &str) {
        let mut last = self
            .told
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            text.clone_into(&mut last);
            notify(&[NotifyState::Status(&crate::cli::render::clean(text))]);
        }
    }

    /// RELOADING=1, until `ready` is said anew by [`Systemd::reloaded`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(at) => notify(&[NotifyState::Reloading, at]),
            Err(error) => debug!("systemd can't be told of the reload: {error}"),
        }
    }

    /// READY=1 after a reload.
    pub fn reloaded(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// STOPPING=1.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}
