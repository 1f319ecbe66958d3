//! `norn-sim`: runs seeds, says what broke, and how to see it again.

use std::process::ExitCode;

use norn_sim::args::{self, USAGE};
use norn_sim::command;
use norn_sim::report::Exit;

/// A seed is made of millions of small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Half of what a run checks are the debug assertions of the code that runs.
    if !cfg!(debug_assertions) {
        eprintln!(
            "built without debug assertions, which are part of what is checked: use `cargo sim`"
        );
        return Exit::Harness.into();
    }
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(args) => command::obey(&args),
        Err(error) => Err(format!("{error}\n{USAGE}")),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{error}");
            Exit::Harness.into()
        }
    }
}
