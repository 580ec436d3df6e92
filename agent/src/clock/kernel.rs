//! Asks the kernel how good the clock is: `adjtimex(2)` with modes = 0, which only reads.
//!
//! In a container, and under systemd's `ProtectClock=yes`, the kernel says "unsynchronised" or
//! refuses whatever is so; that is why chrony is asked first.

use pgaa_core::clock::{ClockSource, SourceReport};
use std::io;

/// Asks the kernel. It needs no privilege.
pub fn ask() -> io::Result<SourceReport> {
    let (state, timex) = read()?;
    Ok(report(state, &timex))
}

#[expect(
    unsafe_code,
    reason = "adjtimex(2) has no safe binding; with modes = 0 it writes to the struct alone"
)]
fn read() -> io::Result<(libc::c_int, libc::timex)> {
    // SAFETY: timex is plain numbers, for which all-zero bytes are valid; the pointer is to a
    // live, exclusively borrowed value of the type the kernel fills in.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((state, timex))
    }
}

fn report(state: libc::c_int, timex: &libc::timex) -> SourceReport {
    // adjtimex(2): offset is in ns where STA_NANO is set, else in us; maxerror always in us.
    let unit_s = if timex.status & libc::STA_NANO != 0 {
        1e-9
    } else {
        1e-6
    };
    let follows = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    SourceReport {
        source: ClockSource::Kernel,
        follows,
        // What remains to be added to the clock: a positive remainder is a clock behind.
        offset_s: -(timex.offset as f64) * unit_s,
        root_delay_s: 0.0,
        root_dispersion_s: timex.maxerror as f64 * 1e-6,
        reference_age_s: None,
        update_interval_s: None,
        reachable: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let report = ask().unwrap();
        assert_eq!(report.source, ClockSource::Kernel);
        assert!(report.root_dispersion_s.is_finite());
    }

    #[test]
    fn units_and_flags_are_read() {
        let (_, mut timex) = read().unwrap();
        timex.offset = -2_000;
        timex.maxerror = 5_000;
        timex.status = libc::STA_NANO;
        let seen = report(libc::TIME_OK, &timex);
        assert!(seen.follows);
        assert!(
            (seen.offset_s - 2e-6).abs() < 1e-12 && (seen.root_dispersion_s - 5e-3).abs() < 1e-9
        );
        timex.status = libc::STA_UNSYNC;
        assert!(!report(libc::TIME_OK, &timex).follows);
        assert!((report(libc::TIME_OK, &timex).offset_s - 2e-3).abs() < 1e-9);
    }
}
