//! A run as a page for a browser.

use std::path::Path;

use super::{commit, told};
use crate::args::Args;
use crate::case::Case;
use crate::kept::Kept;
use crate::page;
use crate::report::Exit;
use crate::runner::Runner;

pub fn page(args: &Args) -> Result<Exit, String> {
    let (case, replay) = match &args.file {
        Some(file) => (Kept::read(Path::new(file))?.case()?, format!("cargo sim replay {file}")),
        None => {
            let case: &Case = args.cases.first().ok_or("no case")?;
            (case.clone(), case.line())
        }
    };
    let (ran, recording) = Runner::new([&case])?.record(&case)?;
    print!("{}", told(&case, &ran));
    let head = page::Head {
        title: format!("{}, seed {}", case.tier.name(), case.seed),
        commit: commit(),
        replay,
    };
    let text = page::draw(&recording, &head);
    let out = args.out.as_ref().ok_or("no place for the page")?;
    std::fs::write(out, &text).map_err(|error| format!("{out}: {error}"))?;
    println!("{out}: {} events, {} kB", recording.records.len(), text.len() / 1000);
    Ok(Exit::Pass)
}
