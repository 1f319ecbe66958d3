//! norn-ctldiff: etcdctl, word for word, on a real etcd and on nornd; what it writes must be equal.
//!
//! ```text
//! norn-ctldiff --etcd PATH/etcd --norn PATH/nornd --utl PATH/etcdutl --ctl 3.7=PATH/etcdctl --ctl 3.5=PATH2/etcdctl
//! ```
//!
//! A scenario is some scripts ([`script`]) on one or three fresh members. Each runs on etcd, then on nornd on the same ports
//! ([`place`]), for each etcdctl. Ids made from the clock, times, terms and sizes are taken out ([`mod@normal`]); the rest of
//! standard output and standard error, and the exit code, must be the same. With etcd on both sides there is no difference.

mod background;
mod normal;
mod place;
mod script;
mod side;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use norn_tests::program::{self, Words};

use crate::normal::normal;
use crate::place::Place;
use crate::script::Line;
use crate::side::{Side, Tools};

/// What two runs of a scenario need not have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    /// Members come whose ids, and so whose places among the others, are made from the clock.
    Members,
    /// How many writes fit.
    Revisions,
}

struct Scenario {
    name: &'static str,
    nodes: usize,
    flags: &'static [&'static str],
    vary: Vary,
    scripts: &'static [(&'static str, &'static str)],
}

macro_rules! scripts {
    ($($name:literal),*) => { &[$(($name, include_str!($name))),*] };
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "one node",
        nodes: 1,
        flags: &[],
        vary: Vary::Nothing,
        scripts: scripts![
            "maintenance.txt",
            "keys.txt",
            "txn.txt",
            "watch.txt",
            "lease.txt",
            "concurrency.txt",
            "refusals.txt"
        ],
    },
    Scenario {
        name: "three nodes",
        nodes: 3,
        flags: &[],
        vary: Vary::Nothing,
        scripts: scripts![
            "maintenance.txt",
            "keys.txt",
            "txn.txt",
            "watch.txt",
            "lease.txt",
            "concurrency.txt",
            "refusals.txt",
            "cluster.txt"
        ],
    },
    Scenario {
        name: "members",
        nodes: 1,
        flags: &[],
        vary: Vary::Members,
        scripts: scripts!["members.txt"],
    },
    Scenario {
        name: "quota",
        nodes: 1,
        flags: &["--quota-backend-bytes=8388608"],
        vary: Vary::Revisions,
        scripts: scripts!["quota.txt"],
    },
];

struct Options {
    etcd: PathBuf,
    norn: PathBuf,
    tools: Vec<Tools>,
    jobs: usize,
    only: Option<String>,
    show: bool,
}

const USAGE: &str = "usage: norn-ctldiff --etcd PATH --norn PATH --ctl NAME=PATH... [--utl PATH] [--jobs N] \
                     [--only SCENARIO] [--show]";

/// Whoever starts this in the background of a script starts it deaf to SIGINT, and its children would be, too. A handler of our own is
/// not inherited.
fn hear_interrupts() {
    let is_on = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let interrupt = signal_hook::consts::SIGINT;
    if let Err(error) = signal_hook::flag::register_conditional_shutdown(interrupt, 130, is_on) {
        eprintln!("SIGINT: {error}");
    }
}

fn main() -> ExitCode {
    hear_interrupts();
    let options = program::options(USAGE, read);
    let work: Vec<(&Tools, &Scenario)> = SCENARIOS
        .iter()
        .filter(|s| options.only.as_ref().is_none_or(|only| only == s.name))
        .flat_map(|s| options.tools.iter().map(move |t| (t, s)))
        .collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new((0, 0)));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some((tools, scenario)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (compared, differing) = compare(&options, tools, scenario);
                    let mut found = found.lock().expect("no holder panics");
                    *found = (found.0 + compared, found.1 + differing);
                }
            });
        }
    });
    let (compared, differing) = *found.lock().expect("no holder panics");
    println!("norn-ctldiff: {compared} answers compared, {differing} differ");
    program::verdict(differing == 0 && compared > 0)
}

/// How many answers were compared, and how many differ.
fn compare(options: &Options, tools: &Tools, scenario: &Scenario) -> (usize, usize) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let lines: Vec<Line> =
        scenario.scripts.iter().flat_map(|(file, text)| script::parse(file, text)).collect();
    let place = Place::new();
    let run = |binary: &PathBuf| {
        Side::start(&place, tools, &runtime, binary, scenario.nodes, scenario.flags).run(&lines)
    };
    let (etcd, norn) = (run(&options.etcd), run(&options.norn));

    let title = format!("etcdctl {}, {}", tools.label, scenario.name);
    let (mut report, mut compared, mut differing) = (String::new(), 0, 0);
    for (at, line) in lines.iter().enumerate() {
        let (Some(a), Some(b)) = (etcd.answers.get(&at), norn.answers.get(&at)) else { continue };
        let (a, b) = (normal(a, &etcd, scenario), normal(b, &norn, scenario));
        compared += 1;
        let parts = [
            ("exit", &a.code, &b.code),
            ("stdout", &a.stdout, &b.stdout),
            ("stderr", &a.stderr, &b.stderr),
        ];
        if options.show {
            report += &format!(
                "$ {}\n[{}, {:.1?}, {:.1?}]\n{}{}",
                line.text, a.code, a.took, b.took, a.stdout, a.stderr
            );
        }
        let different: Vec<_> = parts.into_iter().filter(|(_, a, b)| a != b).collect();
        differing += usize::from(!different.is_empty());
        for (what, a, b) in different {
            let head = format!("{title}: {}: {}: {what}", line.number, line.text);
            report += &format!("{head}\n  etcd: {a:?}\n  norn: {b:?}\n");
        }
    }
    for (name, run) in [("etcd", &etcd), ("norn", &norn)] {
        if let Some(failure) = &run.failure {
            differing += 1;
            report += &format!("{title}: {name} gave up at {failure}\n");
        }
    }
    println!("{report}{title}: {compared} answers, {differing} differ");
    (compared, differing)
}

fn read(words: &mut Words) -> Result<Options, String> {
    // Without it its lines are left out.
    let utl = words.text("--utl")?.map(PathBuf::from).filter(|path| path.exists());
    let tool = |text: &String| {
        let (label, ctl) =
            text.split_once('=').ok_or_else(|| program::unreadable("--ctl", text))?;
        Ok(Tools { label: label.to_owned(), ctl: ctl.into(), utl: utl.clone() })
    };
    let tools = words.all("--ctl")?.iter().map(tool).collect::<Result<Vec<_>, String>>()?;
    if tools.is_empty() {
        return Err("--ctl is missing".to_owned());
    }
    Ok(Options {
        etcd: words.path("--etcd")?,
        norn: words.path("--norn")?,
        tools,
        jobs: words.number("--jobs", 2)?,
        only: words.text("--only")?,
        show: words.has("--show"),
    })
}
