//! One seed, told in full.

use super::{commit, told};
use crate::args::Args;
use crate::report::Exit;
use crate::runner::Runner;

pub fn run(args: &Args) -> Result<Exit, String> {
    let case = args.cases.first().ok_or("no case")?;
    let runner = Runner::new([case])?;
    println!("commit {}, profile {:?}, seed {}", commit(), case.profile, case.seed);
    if !args.is_quiet {
        println!("{:#?}", case.options());
    }
    let ran = match &args.trace {
        None => runner.run(case)?,
        Some(file) => {
            let (ran, recording) = runner.record(case)?;
            recording.write_lines(file)?;
            ran
        }
    };
    print!("{}", told(case, &ran));
    Ok(ran.exit)
}
