//! What the server's process has used, read from `/proc` (Linux only).

use std::time::Duration;

/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, which Linux keeps at 100 on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// One reading of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time in user and kernel mode, all threads together.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) resident_bytes: u64,
    /// Bytes that the process caused to be sent to the storage layer, in whole pages. Zero where the kernel forbids reading it.
    pub(crate) written_bytes: u64,
}

/// One reading of both processes of a measurement, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// The server.
    pub(crate) server: Option<Usage>,
    /// The generator itself: it shares the machine's processors with the server.
    pub(crate) generator: Option<Usage>,
}

/// Reads the usage of process `pid`. `None` when there is no such process or no `/proc`.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    Some(Usage {
        cpu: cpu_from_stat(&read("stat")?)?,
        resident_bytes: resident_from_status(&read("status")?, "VmRSS:")?,
        written_bytes: read("io").and_then(|io| written_from_io(&io)).unwrap_or(0),
    })
}

/// The most memory that process `pid` has had resident since [`forget_peak`], in bytes.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    resident_from_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// Lets [`peak`] of process `pid` begin anew. Was that possible?
pub(crate) fn forget_peak(pid: u32) -> bool {
    // See `clear_refs` in proc(5).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// User plus system time out of the text of `/proc/PID/stat`.
fn cpu_from_stat(stat: &str) -> Option<Duration> {
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

/// The value of a field of memory out of the text of `/proc/PID/status`, in bytes.
fn resident_from_status(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// `write_bytes` out of the text of `/proc/PID/io`.
fn written_from_io(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// Names the machine for the report: processor, cores, memory, kernel.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = read("/proc/meminfo");
    let kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, {} GiB, Linux {}", kib / 1024 / 1024, kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_processor_time_behind_an_awkward_command_name() {
        let stat = "4242 (a (very) odd name) S 1 4242 4242 0 -1 4194304 9001 0 0 0 1234 66 0 0 20 0 9 0 100 0 0";
        assert_eq!(cpu_from_stat(stat), Some(Duration::from_secs(13)));
        assert_eq!(cpu_from_stat("nonsense"), None);
    }

    #[test]
    fn reads_memory_and_written_bytes() {
        let status = "Name:\tx\nVmHWM:\t   4096 kB\nVmRSS:\t   2048 kB\nThreads:\t1\n";
        assert_eq!(resident_from_status(status, "VmRSS:"), Some(2_097_152));
        assert_eq!(resident_from_status(status, "VmHWM:"), Some(4_194_304));
        assert_eq!(resident_from_status("Name:\tx\n", "VmRSS:"), None);
        assert_eq!(
            written_from_io("wchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"),
            Some(4096)
        );
    }

    #[test]
    fn the_peak_begins_anew() {
        let own = std::process::id();
        let large = std::hint::black_box(vec![1_u8; 64 << 20]);
        let high = peak(own).unwrap();
        assert!(high >= 64 << 20, "{high}");
        drop(large);
        assert!(forget_peak(own));
        assert!(peak(own).unwrap() < high);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_usage() {
        assert_eq!(usage(u32::MAX), None);
    }
}
