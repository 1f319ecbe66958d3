//! What becomes of a failure: found, kept, shrunk, replayed and drawn, through the program as people use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use norn_sim::case::Case;
use norn_sim::fault::Kind;
use norn_sim::kept::Kept;
use norn_sim::less::Less;
use norn_sim::record::What;
use norn_sim::runner;
use norn_sim::tally::Tally;
use norn_sim::{Bug, Profile};

fn sim(args: &[&str], dir: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_norn-sim");
    Command::new(program).args(args).current_dir(dir).output().expect("norn-sim")
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn must(output: &Output, code: i32, words: &str) {
    assert!(output.status.code() == Some(code) && said(output).contains(words), "{}", said(output));
}

/// A directory of this test's own.
fn room(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// What of its words follows `FAILED seed N: `.
fn promise(output: &Output) -> String {
    let said = said(output);
    let failed = said.lines().find_map(|line| line.strip_prefix("FAILED seed "));
    failed.and_then(|failed| failed.split_once(": ")).expect("a failure").1.to_owned()
}

/// (A seed that becomes little when it is shrunk. Which one does changes with the schedules.)
#[test]
fn from_a_sweep_to_a_page() {
    let dir = room("story");
    let sweep =
        ["sweep", "--seeds", "6..10", "--bug", "stale-read", "--quiet", "--keep", "failures"];
    let swept = sim(&sweep, &dir);
    must(&swept, 2, "replay: cargo sim run --seed 6 --bug stale-read");
    assert_eq!(last_line(&swept), "passed 0 of 1");

    let kept = "failures/core-swarm-6-stale-read.case";
    let shrunk = sim(&["shrink", kept, "--out", "small.case", "--quiet"], &dir);
    must(&shrunk, 0, "replay: cargo sim replay small.case");
    assert_eq!(promise(&shrunk), promise(&swept));
    let case = Kept::read(&dir.join("small.case")).unwrap().case().unwrap();
    let (asks, faults) = (case.less.asks.clone().unwrap(), case.less.faults.clone().unwrap());
    assert!(asks.len() <= 20 && faults.is_empty(), "{}", case.line());

    must(&sim(&["replay", "small.case"], &dir), 2, "the same run as the one that was kept");
    let traces = ["once.txt", "again.txt"].map(|trace| {
        sim(&["replay", "small.case", "--trace", trace, "--quiet"], &dir);
        std::fs::read(dir.join(trace)).unwrap()
    });
    assert!(traces[0] == traces[1] && traces[0].len() > 10_000, "byte for byte");

    must(&sim(&["report", "small.case", "--out", "small.html"], &dir), 0, "events");
    let page = std::fs::read_to_string(dir.join("small.html")).unwrap();
    assert!(page.contains(&promise(&swept)) && !page.contains("{{"));
    assert_eq!(page.matches("</script>").count(), 2, "data must not end its element");
    let rows = page.split("id=\"rows\">").nth(1).and_then(|rest| rest.split("</script>").next());
    let rows: serde_json::Value = serde_json::from_str(rows.unwrap()).unwrap();
    let count = |name: &str| rows[name].as_array().unwrap().len();
    assert!(count("ops") <= asks.len() && count("calls") > 0);
    assert!(count("messages") > 100 && count("places") > 10);
    for outside in ["http://", "https://", "src=", "@import"] {
        let code = page.split("application/json").next().unwrap_or_default();
        assert!(!code.contains(outside), "the page must stand alone: {outside}");
    }
}

#[test]
fn a_replay_that_differs_is_no_replay() {
    let dir = room("differs");
    let case = Case { seed: 0, bug: Some(Bug::StaleRead), ..Case::default() };
    let (mut ran, _) = runner::core(&case, false);
    ran.stats.hash ^= 1;
    Kept::new(&case, &ran, "abc").write(&dir.join("other.case")).unwrap();
    must(&sim(&["replay", "other.case"], &dir), 5, "NOT THE SAME RUN");

    let sound = Case { bug: None, ..case };
    ran.promise = Some("Water flows down.".to_owned());
    Kept::new(&sound, &ran, "abc").write(&dir.join("sound.case")).unwrap();
    must(&sim(&["replay", "sound.case"], &dir), 5, "NOT THE SAME RUN");
    must(&sim(&["shrink", "sound.case"], &dir), 6, "nothing to shrink");

    std::fs::write(dir.join("noise.case"), [7; 300]).unwrap();
    must(&sim(&["replay", "noise.case"], &dir), 6, "no case of norn-sim");
    must(&sim(&["replay", "absent.case"], &dir), 6, "absent.case");
}

#[test]
fn a_sweep_counts_what_it_ran() {
    let dir = room("counts");
    let swept = sim(&["sweep", "--seeds", "0..9", "--shard", "2/4", "--quiet"], &dir);
    must(&swept, 0, "run twice, in two processes, with the same trace: 1");
    assert_eq!(last_line(&swept), "passed 2 of 2");
    must(&sim(&["sweep", "--seeds", "4..4"], &dir), 6, "no seeds to run");
    must(&sim(&["sweep", "--seeds", "0..9", "--time", "0"], &dir), 6, "passed 0 of 0");
}

#[test]
fn a_build_in_the_wrong_mode_says_so() {
    let ran = Command::new(env!("CARGO_BIN_EXE_norn-sim-cluster")).output().unwrap();
    must(&ran, 6, "built without --cfg madsim");
}

#[test]
fn what_is_left_out_leaves_the_rest_alone() {
    let faults = |less: Less| -> Vec<(u64, String)> {
        let case = Case { seed: 2, profile: Profile::Storm, less, ..Case::default() };
        let (ran, recording) = runner::core(&case, true);
        assert_eq!(ran.promise, None, "{}", ran.text);
        let records = recording.unwrap().records.into_iter();
        // (Messages are damaged where there are any.)
        let is_listed = |what| matches!(what, What::Fault { kind, .. } if kind != Kind::Garble);
        let faults = records.filter(|record| is_listed(record.what));
        // (Whom a fault finds that waits for an election depends on what happened before.)
        let faults = faults.filter(|record| !record.more.starts_with("Upon"));
        faults.map(|record| (record.at, record.more)).collect()
    };
    let all = faults(Less::default());
    assert!(all.len() > 3, "a storm has faults");
    let quiet = Less { clients: Some(vec![]), watchers: Some(vec![]), ..Less::default() };
    assert_eq!(faults(quiet), all);
    let left = faults(Less { faults: Some(vec![0, 1]), ..Less::default() });
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|fault| all.contains(fault)), "{left:?}");
    let less = Less { ops: Some(5), ..Less::default() };
    let case = Case { seed: 2, profile: Profile::Storm, less, ..Case::default() };
    assert_eq!(runner::core(&case, false).0.stats.ops, 5);
}

#[test]
fn every_fault_and_every_message_occurs() {
    let mut tally = Tally::default();
    for seed in 0..60 {
        let case = Case { seed, profile: Profile::Storm, ..Case::default() };
        tally.add(&runner::core(&case, false).0.tally);
    }
    assert_eq!(tally.missing(false), [] as [&str; 0]);
}
