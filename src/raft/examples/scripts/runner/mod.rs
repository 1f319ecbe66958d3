//! The script language, shared by the example and the integration test.

// Two crates include this module; what is public in it is public to them.
#![allow(unreachable_pub)]

mod cluster;
mod confchange;
mod directives;
mod print;
mod quorum;
mod script;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use script::{Block, Script};

/// What one file came to.
pub struct Report {
    /// Blocks in the file.
    pub total: usize,
    pub failures: Vec<Failure>,
}

/// A block whose output is not the expected one.
pub struct Failure {
    line: usize,
    directive: String,
    expected: String,
    actual: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}\n--- expected\n{}--- actual\n{}---",
            self.line, self.directive, self.expected, self.actual
        )
    }
}

/// What a block is run against; lives as long as its file.
trait Machine {
    fn run(&mut self, block: &Block) -> String;
}

/// Every `*.txt` below `dir`, or the file itself, in order of names.
pub fn find_scripts(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    if dir.is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(find_scripts(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Runs one file; the name of its directory chooses the machine.
pub fn run_file(path: &Path, rewrite: bool) -> std::io::Result<Report> {
    let kind = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    let mut machine: Box<dyn Machine> = match kind.as_str() {
        "quorum" => Box::new(quorum::QuorumMachine),
        "confchange" => Box::new(confchange::ChangeMachine::new()),
        _ => Box::new(cluster::Cluster::new()),
    };
    let mut script = Script::parse(&std::fs::read_to_string(path)?);
    let mut failures = Vec::new();
    let mut broken = false;
    for block in script.blocks_mut() {
        let actual = if broken {
            "an earlier block panicked\n".to_owned()
        } else {
            catch_unwind(AssertUnwindSafe(|| machine.run(block))).unwrap_or_else(|panic| {
                broken = true;
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                format!("panic: {}", text.unwrap_or_default())
            })
        };
        let actual = if actual.ends_with('\n') { actual } else { actual + "\n" };
        if actual != block.expected {
            failures.push(Failure {
                line: block.line,
                directive: block.directive.clone(),
                expected: std::mem::replace(&mut block.expected, actual.clone()),
                actual,
            });
        }
    }
    if rewrite && !failures.is_empty() && !broken {
        std::fs::write(path, script.to_text())?;
        failures.clear();
    }
    Ok(Report { total: script.blocks_mut().count(), failures })
}
