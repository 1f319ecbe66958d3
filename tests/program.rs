//! What the programs beside the tests have in common: how they read their options, run, and end.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use tokio::runtime::{Builder, Runtime};

use crate::command::server_path;

/// More problems than these are not printed.
const PRINTED_MAX: usize = 20;

/// The words of the command line that nobody has asked for yet.
#[derive(Debug)]
pub struct Words(Vec<String>);

/// What `read` makes of the command line. If that is nothing, or words are left over, the program ends here.
pub fn options<O>(usage: &str, read: impl FnOnce(&mut Words) -> Result<O, String>) -> O {
    read_all(std::env::args().skip(1).collect(), read).unwrap_or_else(|problem| {
        eprintln!("{problem}\n{usage}");
        std::process::exit(2)
    })
}

fn read_all<O>(
    words: Vec<String>,
    read: impl FnOnce(&mut Words) -> Result<O, String>,
) -> Result<O, String> {
    let mut words = Words(words);
    let options = read(&mut words)?;
    words.none_left().map(|()| options)
}

impl Words {
    /// Whether an option without a value is there. (To be asked last: the value of another one may look the same.)
    pub fn has(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() < before
    }

    /// The values of an option that may come many times.
    pub fn all(&mut self, name: &str) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        while let Some(at) = self.0.iter().position(|word| word == name) {
            if at + 1 == self.0.len() {
                return Err(format!("{name} needs a value"));
            }
            values.extend(self.0.drain(at..at + 2).nth(1));
        }
        Ok(values)
    }

    /// Of several the last one counts.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        Ok(self.all(name)?.pop())
    }

    pub fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.text(name)? {
            Some(text) => text.parse().map_err(|_| unreadable(name, &text)),
            None => Ok(default),
        }
    }

    /// `--seeds A..B`
    pub fn seeds(&mut self, default: Range<u64>) -> Result<Range<u64>, String> {
        let Some(text) = self.text("--seeds")? else { return Ok(default) };
        let ends =
            text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (a, b) = ends.ok_or_else(|| unreadable("--seeds", &text))?;
        Ok(a..b)
    }

    /// One that must be there.
    pub fn path(&mut self, name: &str) -> Result<PathBuf, String> {
        self.text(name)?.map(PathBuf::from).ok_or_else(|| format!("{name} is missing"))
    }

    /// `--server PATH`, or the one that the tests take, which may have to be built: to be asked last of all.
    pub fn server(&mut self) -> Result<PathBuf, String> {
        match self.text("--server")? {
            Some(path) => Ok(path.into()),
            None => self.none_left().map(|()| server_path().to_owned()),
        }
    }

    fn none_left(&self) -> Result<(), String> {
        self.0.first().map_or(Ok(()), |word| Err(format!("unknown option {word}")))
    }
}

pub fn unreadable(name: &str, value: &str) -> String {
    format!("{name}: cannot read {value:?}")
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Says what is wrong, and ends with 1 if anything is.
pub fn end(problems: &[String]) -> ExitCode {
    for problem in problems.iter().take(PRINTED_MAX) {
        println!("PROBLEM: {problem}");
    }
    verdict(problems.is_empty())
}

pub fn verdict(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (Range<u64>, u64, Vec<String>, bool);

    fn read(line: &str) -> Result<Read, String> {
        read_all(line.split_whitespace().map(str::to_owned).collect(), |words| {
            let flags = words.all("--flag")?;
            Ok((words.seeds(1..4)?, words.number("--jobs", 2)?, flags, words.has("--all")))
        })
    }

    #[test]
    fn options_in_any_order() {
        assert_eq!(read(""), Ok((1..4, 2, Vec::new(), false)));
        let flags = vec!["--all".to_owned(), "--x=1".to_owned()];
        assert_eq!(
            read("--flag --all --jobs 3 --seeds 5..7 --all --jobs 4 --flag --x=1"),
            Ok((5..7, 4, flags, true))
        );
    }

    #[test]
    fn what_is_not_understood() {
        for (line, problem) in [
            ("--moon", "unknown option --moon"),
            ("--all 3", "unknown option 3"),
            ("--all --jobs", "--jobs needs a value"),
            ("--jobs x", "--jobs: cannot read \"x\""),
            ("--seeds 1", "--seeds: cannot read \"1\""),
            ("--seeds 1..x", "--seeds: cannot read \"1..x\""),
        ] {
            assert_eq!(read(line), Err(problem.to_owned()), "{line}");
        }
    }

    #[test]
    fn what_must_be_there() {
        let path = |line: &[&str]| {
            read_all(line.iter().map(|word| (*word).to_owned()).collect(), |words| {
                words.path("--etcd")
            })
        };
        assert_eq!(path(&["--etcd", "a b"]), Ok(PathBuf::from("a b")));
        assert_eq!(path(&[]), Err("--etcd is missing".to_owned()));
        let server = read_all(vec!["--moon".to_owned()], Words::server);
        assert_eq!(server, Err("unknown option --moon".to_owned()), "and nothing was built");
    }
}
