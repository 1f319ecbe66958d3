//! From a seed that fails to the smallest run that breaks the same promise, as a file.

use std::path::{Path, PathBuf};

use super::{commit, told};
use crate::args::Args;
use crate::case::Case;
use crate::kept::Kept;
use crate::record::{Record, What};
use crate::report::Exit;
use crate::runner::Runner;
use crate::shrink::{Budget, Shrinker};

pub fn shrink(args: &Args) -> Result<Exit, String> {
    let case: Case = match &args.file {
        Some(file) => Kept::read(Path::new(file))?.case()?,
        None => args.cases.first().ok_or("no case")?.clone(),
    };
    let runner = Runner::new([&case])?;
    println!("commit {}, {}", commit(), case.line());
    let budget = Budget::new(args.runs, args.time);
    let mut shrinker = Shrinker::new(&case, budget, |case| runner.run(case))?;
    shrinker.tells = !args.is_quiet;
    let (from, small) = (shrinker.size(), shrinker.shrink()?);
    let (ran, recording) = runner.record(&small)?;
    if ran.promise.as_deref() != Some(shrinker.promise()) {
        let (promise, now) = (shrinker.promise(), ran.promise.unwrap_or_default());
        println!("NOT THE SAME RUN: broke {promise:?}, and once more {now:?}");
        return Ok(Exit::Difference);
    }
    print!("{}", told(&small, &ran));
    println!("faults that struck:");
    for Record { at, what, more } in &recording.records {
        if let What::Fault { .. } = what {
            println!("  {:.6} s {more}", *at as f64 / 1e6);
        }
    }
    println!("from {from}\n  to {} in {} runs", shrinker.size(), shrinker.runs());
    let out = args.out.clone().unwrap_or_else(|| format!("{}.case", case.name()));
    let out = PathBuf::from(out);
    Kept::new(&small, &ran, &commit()).write(&out)?;
    println!("replay: cargo sim replay {}", out.display());
    Ok(Exit::Pass)
}
