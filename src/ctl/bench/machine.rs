//! Where and of what figures were made.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a thread that does nothing but look at the clock misses now and then; less is the cache and the kernel's own work.
const HELD_MIN: Duration = Duration::from_millis(1);

/// How long threads are held up where no server is to blame.
pub struct Held {
    /// Of their time, 0 to 1.
    pub share: f64,
    pub longest: Duration,
}

/// Of as many threads as there are cores, for so long.
pub fn held(duration: Duration) -> Held {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let watch = || {
        let begin = Instant::now();
        let (mut last, mut sum, mut longest) = (begin, Duration::ZERO, Duration::ZERO);
        while last - begin < duration {
            let now = Instant::now();
            let gap = now - last;
            if gap >= HELD_MIN {
                sum += gap;
                longest = longest.max(gap);
            }
            last = now;
        }
        (sum, longest)
    };
    let seen: Vec<(Duration, Duration)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(watch)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let sum: Duration = seen.iter().map(|(sum, _)| *sum).sum();
    let longest = seen.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
    Held { share: sum.div_duration_f64(duration * cores as u32), longest }
}

fn line_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(program: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned()).filter(|line| !line.is_empty())
}

pub fn description() -> String {
    let cpu = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = line_of("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {cpu}, {memory}, Linux {}", kernel.trim())
}

/// A server as it calls itself: `etcd 3.7.1`.
pub fn name(kind: &str, binary: &Path) -> String {
    let version = said(binary, &["--version"]);
    let version = version.as_deref().and_then(|line| line.rsplit(' ').next());
    format!("{kind} {}", version.unwrap_or("of unknown version"))
}

/// Of the sources in the working directory, if they are under version control.
pub fn commit() -> Option<String> {
    said(Path::new("git"), &["rev-parse", "--short", "HEAD"])
}
