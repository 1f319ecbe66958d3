//! A kept failure once more. It must be the same run, event for event; anything else is said loudly.

use std::path::Path;

use super::{commit, told};
use crate::args::Args;
use crate::kept::Kept;
use crate::report::Exit;
use crate::runner::Runner;

pub fn replay(args: &Args) -> Result<Exit, String> {
    let file = args.file.as_ref().ok_or("no file")?;
    let kept = Kept::read(Path::new(file))?;
    let case = kept.case().map_err(|error| format!("{file}: {error}"))?;
    let runner = Runner::new([&case])?;
    println!("{file}: {}\nkept at commit {}, this is {}", case.line(), kept.commit, commit());
    let ran = match &args.trace {
        None => runner.run(&case)?,
        Some(to) => {
            let (ran, recording) = runner.record(&case)?;
            recording.write_lines(to)?;
            ran
        }
    };
    print!("{}", told(&case, &ran));
    if ran.stats.hash == kept.hash && ran.promise == kept.promise {
        println!("the same run as the one that was kept: trace {:016x}", ran.stats.hash);
        return Ok(ran.exit);
    }
    println!(
        "NOT THE SAME RUN: trace {:016x} ({}) was kept, and now it is {:016x} ({})",
        kept.hash,
        kept.promise.as_deref().unwrap_or("passed"),
        ran.stats.hash,
        ran.promise.as_deref().unwrap_or("passed"),
    );
    if kept.commit != commit() {
        println!(
            "(Another commit may draw, send or answer something else: try the one it was kept at.)"
        );
    }
    Ok(Exit::Difference)
}
