//! Runs the scripts in `testdata`.

#[path = "../examples/scripts/runner/mod.rs"]
mod runner;

use std::path::Path;

#[test]
fn every_script_prints_what_it_expects() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let files = runner::find_scripts(&dir).expect("testdata can be read");
    assert!(files.len() >= 14, "only {} scripts found", files.len());
    let (mut blocks, mut failures) = (0, String::new());
    for file in files {
        let report = runner::run_file(&file, false).expect("a script can be read");
        blocks += report.total;
        for failure in report.failures {
            failures += &format!("{}:{failure}\n", file.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(blocks >= 100, "only {blocks} blocks found");
}
