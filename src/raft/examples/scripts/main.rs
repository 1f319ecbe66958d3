//! Runs protocol scripts: `cargo run -p norn-raft --example scripts -- [--rewrite] DIR...`
//!
//! Every `*.txt` below the directories is run. The name of its directory says what it drives: `quorum`,
//! `confchange`, or else a group of nodes. Differing blocks are printed; the exit code is 0 only if none
//! differ. `--rewrite` puts the actual output in place of the expected one.

mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (flags, paths): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let rewrite = flags.iter().any(|flag| flag == "--rewrite");
    if paths.is_empty() || flags.iter().any(|flag| flag != "--rewrite") {
        eprintln!("usage: scripts [--rewrite] DIR...");
        return ExitCode::FAILURE;
    }
    let (mut passed, mut total) = (0, 0);
    for path in paths {
        let files = match runner::find_scripts(&PathBuf::from(&path)) {
            Ok(files) => files,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        for file in files {
            let report = match runner::run_file(&file, rewrite) {
                Ok(report) => report,
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            };
            for failure in &report.failures {
                println!("{}:{failure}\n", file.display());
            }
            passed += report.total - report.failures.len();
            total += report.total;
        }
    }
    println!("passed {passed} of {total}");
    if passed == total && total > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
