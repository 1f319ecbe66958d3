//! One case for another `norn-sim`: what there is to say, then numbers for it to read.

use crate::args::Args;
use crate::report::Exit;
use crate::runner::{self, Ran};

pub fn one(args: &Args) -> Result<Exit, String> {
    let case = args.cases.first().ok_or("no case")?;
    if case.plant.is_some() && !norn_planted::is_switchable() {
        return Err("this build has no planted bugs to turn on".to_owned());
    }
    if case.plant.is_some() {
        norn_planted::only(case.plant);
    }
    let (ran, recording) = runner::core(case, args.recording.is_some());
    if let (Some(file), Some(recording)) = (&args.recording, recording) {
        recording.write(file.as_ref())?;
    }
    Ok(say(&ran))
}

/// What [`crate::launch::Launcher`] reads.
pub fn say(ran: &Ran) -> Exit {
    print!("{}", ran.text);
    println!("{}\n{}", ran.stats.line(), ran.tally.line());
    ran.exit
}
