//! The commands of `norn-sim`, a file for each.

mod one;
mod page;
mod replay;
mod run;
mod shrink;
mod sweep;

use crate::args::{Args, Command};
use crate::case::Case;
use crate::mutants;
use crate::report::Exit;
use crate::runner::Ran;

pub use one::say;

/// # Errors
/// What kept the simulator from its work.
pub fn obey(args: &Args) -> Result<Exit, String> {
    match args.command {
        Command::Run => run::run(args),
        Command::Sweep | Command::Bugs => sweep::sweep(args),
        Command::Shrink => shrink::shrink(args),
        Command::Replay => replay::replay(args),
        Command::Report => page::page(args),
        Command::Mutants => mutants::exam(args),
        Command::Hunt => mutants::hunt(args),
        Command::One => one::one(args),
    }
}

/// The source that this was built from, as far as git knows.
pub fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
        .output();
    let text = asked.ok().filter(|out| out.status.success()).map(|out| out.stdout);
    text.map_or("unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

/// What a run said, and, if it failed, what it was and the line that runs it again.
fn told(case: &Case, ran: &Ran) -> String {
    let mut text = ran.text.clone();
    if ran.exit != Exit::Pass {
        text += &format!("commit {}, {:?}\n", commit(), case.options());
        text += &format!("replay: {}\n", case.line());
    }
    text
}
