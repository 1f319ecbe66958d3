//! `nornd`: etcd's command line on Norn's engine.

use norn_server::config::ServerConfig;
use norn_server::config_file::{self, Problem};
use norn_server::flags::{self, Refusal};
use norn_server::log::{Level, Log, Value};
use norn_server::serve::{self, End};

/// Requests are many small allocations of mixed sizes on one thread; glibc's allocator spends an eighth of the
/// server's time on them, this one a third of that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    small_pages();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let end = run(&args);
    match end {
        End::Code(code) => std::process::exit(code),
        End::Signal(signal) => {
            // (Does not return, unless the signal cannot end us.)
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            std::process::exit(0);
        }
    }
}

/// The first touch of a huge page is that of 512 small ones at once: five milliseconds on a virtual machine whose host had
/// lent the memory to somebody else, and so long nobody is answered. (What huge pages save here could not be measured.)
fn small_pages() {
    // (An old kernel does not know how. Then it stays as it is.)
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn run(args: &[String]) -> End {
    let values = match flags::parse(args, std::env::vars()) {
        Ok(values) => values,
        Err(Refusal::Usage(text)) => {
            eprintln!("{text}");
            eprint!("{}", flags::usage());
            return End::Code(2);
        }
        Err(Refusal::Help) => {
            print!("{}", flags::usage());
            return End::Code(0);
        }
        Err(refusal) => return refused(&refusal),
    };
    if values.bool("version") {
        println!("etcd Version: {}", norn_node::SERVER_VERSION);
        println!("Git SHA: norn-{}", env!("CARGO_PKG_VERSION"));
        println!("Go Version: none (Norn {}, Rust)", env!("CARGO_PKG_VERSION"));
        println!("Go OS/Arch: {}/{}", std::env::consts::OS, norn_server::go_arch());
        return End::Code(0);
    }
    let (values, file) = match values.text("config-file") {
        "" => (values, None),
        path => match config_file::load(path, &values) {
            Ok(said) => (said, Some(path.to_owned())),
            Err(Problem::Verify(error)) => return refused(&Refusal::Verify(error)),
            Err(Problem::Line(text)) => {
                eprintln!("{text}");
                return End::Code(1);
            }
        },
    };
    let log =
        Log::new(values.text("log-level"), values.text("log-format"), values.text("log-outputs"));
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return End::Code(if error.starts_with("unrecognized level") { 2 } else { 1 });
        }
    };
    for (level, text, field, value) in &values.notes {
        let level = if *level == "warn" { Level::Warn } else { Level::Info };
        log.line(level, None, text, &[(field, value.into())]);
    }
    let config = ServerConfig::new(&values);
    if let (Some(path), Ok(_)) = (&file, &config) {
        let text = "loaded server configuration, other configuration command line flags and environment \
                    variables will be ignored if provided";
        log.info(text, &[("path", path.into())]);
    }
    let all: Vec<String> = std::env::args().collect();
    log.info("Running: ", &[("args", all.as_slice().into())]);
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            log.warn("failed to verify flags", &[("error", (&error).into())]);
            return End::Code(1);
        }
    };
    for warning in &config.warnings {
        log.warn(warning, &[]);
    }
    serve::run(config, log)
}

/// Refusals that etcd tells through its log, with the default logger, since the flags are not to be trusted.
fn refused(refusal: &Refusal) -> End {
    let Ok(log) = Log::new("info", "json", "default") else { return End::Code(1) };
    match refusal {
        Refusal::Conflict(variable) => {
            let text = "conflicting environment variable is shadowed by corresponding command-line \
                        flag (either unset environment variable or disable flag))";
            let fields: [(&str, Value<'_>); 1] = [("environment-variable", variable.into())];
            log.line(Level::Fatal, None, text, &fields);
        }
        Refusal::Verify(error) | Refusal::Usage(error) => {
            let all: Vec<String> = std::env::args().collect();
            log.info("Running: ", &[("args", all.as_slice().into())]);
            log.warn("failed to verify flags", &[("error", error.into())]);
        }
        Refusal::Help => {}
    }
    End::Code(1)
}
