//! Processor time of processes, as the kernel counts it.

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::fs;

/// User and system time that a process has used so far, its own and that of children it has
/// waited for. Seconds.
pub fn seconds(pid: u32) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))?;
    let time = clock_gettime(clock)?;
    let own = time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9;
    Ok(own + seconds_of_children(pid)?)
}

/// Fields 16 and 17 of proc(5)'s `stat`, in ticks: the clock above leaves children out.
fn seconds_of_children(pid: u32) -> Result<f64> {
    /// Linux reports in hundredths of a second on every architecture (`USER_HZ`).
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("no command name in stat")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}
