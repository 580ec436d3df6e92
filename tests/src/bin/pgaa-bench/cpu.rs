//! Processor time of processes, as the kernel counts it.

use anyhow::{Context, Result, bail};
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

/// Linux reports in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What all processes of this machine have used since it was started, in programs and in the kernel.
/// Seconds.
pub fn machine() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    // cpu user nice system idle iowait irq softirq ...
    let ticks: Vec<f64> = text
        .split_whitespace()
        .skip(1)
        .take(7)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [user, nice, system, _, _, irq, softirq] = ticks[..] else {
        bail!("/proc/stat begins otherwise: {ticks:?}");
    };
    Ok((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// Fields 16 and 17 of proc(5)'s `stat`, in ticks: the clock above leaves children out.
fn seconds_of_children(pid: u32) -> Result<f64> {
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
