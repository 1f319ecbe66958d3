//! `nornctl`: etcdctl's commands, flags, environment, output and exit codes.

use std::path::Path;

use norn_ctl::commands::{Context, grammar, run};
use norn_ctl::connect::Config;
use norn_ctl::exit::{Exit, Outcome};
use norn_ctl::flags::Parsed;
use norn_ctl::print::Printer;

fn main() {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    // Under the name etcdctl (a symlink) it calls itself so.
    let program = match Path::new(&name).file_name().and_then(|n| n.to_str()) {
        Some("etcdctl") => "etcdctl",
        _ => "nornctl",
    };
    let words: Vec<String> = words.collect();
    if let Err(e) = start(program, &words) {
        if !e.message.is_empty() {
            eprintln!("Error: {}", e.message);
        }
        if !e.after.is_empty() {
            eprintln!("{}", e.after);
        }
        // The runtime is gone: nothing is left to be flushed.
        std::process::exit(e.code);
    }
}

fn start(program: &str, words: &[String]) -> Outcome {
    let grammar = grammar(program);
    let env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    let line = match grammar.parse(words, &env)? {
        Parsed::Help(text) => {
            print!("{text}");
            return Ok(());
        }
        Parsed::Run(line) => line,
    };
    let printer = Printer::new(line.text("write-out"), line.bool("hex"))?;
    if line.bool("debug") {
        for flag in grammar.globals {
            let name = flag.name.to_uppercase().replace('-', "_");
            eprintln!("ETCDCTL_{name}={}", line.text(flag.name));
        }
    }
    let config = Config::from_line(&line)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Exit::new(norn_ctl::exit::ERROR, e))?;
    let result = runtime.block_on(run(Context { grammar, line, printer, config }));
    // A read of stdin may still block in the background; it must not hold up the exit.
    runtime.shutdown_background();
    result
}
