//! What the kernel says of a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Resident, with a share of what others have mapped too.
    pub(crate) pss: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

/// The memory of a process.
pub(crate) fn memory(id: u32) -> Result<Memory> {
    let (status, rollup) = (file(id, "status"), file(id, "smaps_rollup"));
    Ok(Memory {
        rss: kibibytes(&status, "VmRSS:")?,
        pss: kibibytes(&rollup, "Pss:")?,
        peak: kibibytes(&status, "VmHWM:")?,
    })
}

/// The CPU time that a process has used, in user mode and in the kernel.
pub(crate) fn cpu(id: u32) -> Result<Duration> {
    let path = file(id, "stat");
    let text = read(&path)?;
    let ticks = ticks(&text).with_context(|| format!("{}: {text}", path.display()))?;
    Ok(duration(ticks))
}

/// The CPU time that all programs of this machine have used; and that it lost to others, if it is a virtual one.
pub(crate) fn cpu_of_all() -> Result<Duration> {
    let text = read(Path::new("/proc/stat"))?;
    let ticks = busy(&text).with_context(|| format!("/proc/stat: {text}"))?;
    Ok(duration(ticks))
}

fn duration(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The CPU time that a process has used since it had used `before`.
pub(crate) fn cpu_since(id: u32, before: Duration) -> Result<Duration> {
    Ok(cpu(id)?.saturating_sub(before))
}

/// Whether a signal has stopped a process.
pub(crate) fn is_stopped(id: u32) -> Result<bool> {
    let text = read(&file(id, "stat"))?;
    Ok(fields(&text).next() == Some("T"))
}

/// The fields after the program's name, which stands in parentheses and may hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace()
}

/// The fields `utime` and `stime`, the 14th and 15th of all.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = fields(stat).skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The sum of the first line, less `idle` and `iowait`, which are the 4th and the 5th, and less what is after the
/// 8th: guests are in `user` already.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = line.split_whitespace().map(str::parse::<u64>).take(8);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().ok()?;
    let all: u64 = ticks.iter().sum();
    Some(all - ticks.get(3)? - ticks.get(4)?)
}

/// A figure of a file with lines as `VmRSS:  1234 kB`.
fn kibibytes(path: &Path, key: &str) -> Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure
        .and_then(|figure| figure.parse().ok())
        .with_context(|| format!("{} has no line {key} with a figure", path.display()))
}

fn file(id: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(id.to_string()).join(name)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "42 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(ticks(stat), Some(11 + 12));
        assert_eq!(fields(stat).next(), Some("S"));
        assert_eq!(ticks("42 (a) S 1"), None);
    }

    #[test]
    fn a_machine_is_busy_with_all_but_waiting() {
        let stat = "cpu  1 2 4 100 200 8 16 32 1000 2000\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy(stat), Some(63));
        assert_eq!(busy("cpu0 1 2"), None);
        cpu_of_all().unwrap();
    }

    #[test]
    fn this_process_has_memory_and_runs() {
        let id = std::process::id();
        let memory = memory(id).unwrap();
        assert!(
            memory.rss > 0 && memory.pss > 0 && memory.peak > 0,
            "{memory:?}"
        );
        assert!(!is_stopped(id).unwrap());
        cpu(id).unwrap();
    }
}
