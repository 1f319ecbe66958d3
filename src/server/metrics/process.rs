//! What the system says of this process.

use super::text::Page;

pub(super) fn write(page: &mut Page) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kb| kb * 1024.0)
    };
    if let Some(bytes) = bytes("VmRSS:") {
        page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes);
    }
    if let Some(bytes) = bytes("VmSize:") {
        page.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", bytes);
    }
    let limit = |resource| {
        let limit = rustix::process::getrlimit(resource).current;
        limit.map_or(u64::MAX as f64, |limit| limit as f64)
    };
    page.gauge(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        limit(rustix::process::Resource::As),
    );
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count()) as f64;
    page.gauge("process_open_fds", "Number of open file descriptors.", fds);
    page.gauge("os_fd_used", "The number of used file descriptors.", fds);
    let fds_max = limit(rustix::process::Resource::Nofile);
    page.gauge("process_max_fds", "Maximum number of open file descriptors.", fds_max);
    page.gauge("os_fd_limit", "The file descriptor limit.", fds_max);
    // Of the fields after the name (which may hold blanks), the 12th and 13th are user and system time, the 20th the
    // start since the machine's, all in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<f64> =
        after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let ticks = |at: usize| fields.get(at).copied().unwrap_or(0.0);
    page.counters("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        .sample(&[], (ticks(11) + ticks(12)) / 100.0);
    if let Some(booted) = booted() {
        page.gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            booted + ticks(19) / 100.0,
        );
    }
    let (received, sent) = traffic().unwrap_or_default();
    page.counters(
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
    )
    .sample(&[], received);
    page.counters(
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
    )
    .sample(&[], sent);
}

/// When the machine was started, in Unix seconds.
fn booted() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Bytes in and out, of the process's whole network name space, as the system counts them.
fn traffic() -> Option<(f64, f64)> {
    let netstat = std::fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted)?;
        values.split(' ').nth(at)?.parse().ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}
