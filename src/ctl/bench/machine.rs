//! Where and of what figures were made.

use std::path::Path;
use std::process::Command;

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
