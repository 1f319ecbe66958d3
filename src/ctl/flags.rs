//! The command line: POSIX long options anywhere, prefixes of command names, one environment variable per global flag.
//!
//! A command is data (`commands.rs`); this file finds it, reads its flags and words, and writes help for it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::exit::{self, Exit, Outcome};
use crate::go;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Int,
    Text,
    Time,
    /// Comma-separated and repeatable; values add up.
    List,
}

#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub about: &'static str,
}

pub const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Flag {
    Flag { name, short: None, kind, default, about }
}

pub const fn short(short: char, flag: Flag) -> Flag {
    Flag { short: Some(short), ..flag }
}

#[derive(Debug)]
pub struct Spec {
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub usage: &'static str,
    pub about: &'static str,
    pub group: &'static str,
    pub flags: &'static [Flag],
    pub subs: &'static [Spec],
}

/// A line that was understood.
#[derive(Debug, Clone)]
pub struct Line {
    /// Names of the command and its parents, in full.
    pub path: Vec<&'static str>,
    pub args: Vec<String>,
    /// How many of `args` stood before `--`.
    pub dash_at: Option<usize>,
    values: BTreeMap<&'static str, String>,
    defaults: BTreeMap<&'static str, &'static str>,
}

#[derive(Debug)]
pub enum Parsed {
    Run(Line),
    /// Print this on stdout and end with 0.
    Help(String),
}

impl Line {
    /// Given on the command line or in the environment.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(value) => value,
            None => self.defaults.get(name).copied().unwrap_or_default(),
        }
    }

    // Values were checked when they were read, so the fallbacks below are for the empty default only.
    pub fn bool(&self, name: &str) -> bool {
        go::parse_bool(self.text(name)).unwrap_or(false)
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub fn time(&self, name: &str) -> Duration {
        go::parse_duration(self.text(name)).unwrap_or_default()
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(|s| s.trim().to_owned()).collect()
    }

    fn set(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        match flag.kind {
            Kind::Bool => drop(go::parse_bool(value)?),
            Kind::Int => drop(go::parse_i64(value, 10)?),
            Kind::Time => drop(go::parse_duration(value)?),
            Kind::Text | Kind::List => {}
        }
        let name = flag.name;
        match self.values.get_mut(name) {
            Some(old) if flag.kind == Kind::List => {
                old.push(',');
                old.push_str(value);
            }
            _ => drop(self.values.insert(name, value.to_owned())),
        }
        Ok(())
    }
}

/// The grammar of one program.
pub struct Grammar {
    pub program: String,
    pub commands: &'static [Spec],
    pub globals: &'static [Flag],
    pub env_prefix: &'static str,
    pub groups: &'static [&'static str],
}

impl Grammar {
    /// Reads a line for a known command, without the environment (transactions and interactive watches).
    pub fn parse_command(&self, spec: &'static Spec, words: &[String]) -> Outcome<Line> {
        self.read(spec, vec![spec.name], words)
    }

    pub fn parse(&self, words: &[String], env: &[(String, String)]) -> Outcome<Parsed> {
        let mut subs = self.commands;
        let mut found: Option<&'static Spec> = None;
        let mut path = Vec::new();
        let mut command_words = Vec::new();
        let mut i = 0;
        while i < words.len() {
            let word = &words[i];
            if word == "--" {
                break;
            }
            if let Some(body) = word.strip_prefix('-').filter(|b| !b.is_empty()) {
                // As in etcdctl: any option not known to be a bool swallows the next word.
                let bare = body.trim_start_matches('-');
                let is_bool = |f: &&Flag| f.kind == Kind::Bool;
                let swallows = match word.strip_prefix("--") {
                    Some(_) => {
                        !bare.contains('=')
                            && bare != "help"
                            && self
                                .globals
                                .iter()
                                .find(|f| f.name == bare)
                                .filter(is_bool)
                                .is_none()
                    }
                    None => {
                        body.chars().count() == 1
                            && body != "h"
                            && self
                                .globals
                                .iter()
                                .find(|f| f.short == body.chars().next())
                                .filter(is_bool)
                                .is_none()
                    }
                };
                let known_elsewhere = found
                    .and_then(|s: &Spec| s.flags.iter().find(|f| f.name == bare))
                    .is_some_and(|f| f.kind == Kind::Bool);
                i += if swallows && !known_elsewhere { 2 } else { 1 };
                continue;
            }
            let exact = subs.iter().find(|s| s.name == word);
            let mut starting = subs.iter().filter(|s| s.name.starts_with(word.as_str()));
            let next = exact.or_else(|| match (starting.next(), starting.next()) {
                (Some(only), None) if !word.is_empty() => Some(only),
                _ => None,
            });
            match next {
                Some(spec) => {
                    path.push(spec.name);
                    command_words.push(i);
                    subs = spec.subs;
                    found = Some(spec);
                    if subs.is_empty() {
                        break;
                    }
                }
                None if found.is_none() => {
                    return Err(Exit {
                        after: format!("Run '{} --help' for usage.", self.program),
                        ..Exit::new(
                            exit::ERROR,
                            format!(
                                "unknown command {} for {}",
                                go::quote(word.as_bytes()),
                                go::quote(self.program.as_bytes())
                            ),
                        )
                    });
                }
                None => break,
            }
            i += 1;
        }
        let Some(spec) = found else {
            let rest: Vec<String> = words.to_vec();
            self.read(&ROOT, Vec::new(), &rest)
                .or_else(|e| if e.code == HELP { Ok(no_line()) } else { Err(e) })?;
            return Ok(Parsed::Help(self.root_help()));
        };
        let rest: Vec<String> = words
            .iter()
            .enumerate()
            .filter(|(i, _)| !command_words.contains(i))
            .map(|(_, w)| w.clone())
            .collect();
        let mut line = match self.read(spec, path.clone(), &rest) {
            Err(e) if e.code == HELP => return Ok(Parsed::Help(self.help(spec, &path))),
            other => other?,
        };
        if !spec.subs.is_empty() {
            return Ok(Parsed::Help(self.help(spec, &path)));
        }
        if spec.name == "help" {
            let target = line.args.iter().try_fold((None, self.commands), |(_, subs), word| {
                let spec = subs.iter().find(|s| s.name == word)?;
                Some((Some(spec), spec.subs))
            });
            let names: Vec<&'static str> =
                target.and_then(|t| t.0).map(|s| vec![s.name]).unwrap_or_default();
            return Ok(Parsed::Help(match target.and_then(|t| t.0) {
                Some(spec) => self.help(spec, &names),
                None => self.root_help(),
            }));
        }
        self.environment(&mut line, env)?;
        Ok(Parsed::Run(line))
    }

    fn environment(&self, line: &mut Line, env: &[(String, String)]) -> Outcome {
        for flag in self.globals {
            let name = format!("{}{}", self.env_prefix, flag.name.to_uppercase().replace('-', "_"));
            let Some((_, value)) = env.iter().find(|(n, _)| *n == name) else { continue };
            if line.is_set(flag.name) {
                crate::connect::log(
                    "fatal",
                    "",
                    "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
                    &[("environment-variable", &name)],
                );
                return Err(Exit::new(exit::ERROR, ""));
            }
            if !value.is_empty() {
                line.set(flag, value).map_err(|e| {
                    Exit::new(
                        exit::ERROR,
                        format!("invalid value {} for {name}: {e}", go::quote(value.as_bytes())),
                    )
                })?;
            }
        }
        for (name, value) in env.iter().filter(|(n, _)| n.starts_with(self.env_prefix)) {
            let bare = name[self.env_prefix.len()..].to_lowercase().replace('_', "-");
            let of_watch =
                line.path == ["watch"] && matches!(&*bare, "watch-key" | "watch-range-end");
            if !of_watch && !self.globals.iter().any(|f| f.name == bare) {
                let pair = format!("{name}={value}");
                crate::connect::log(
                    "warn",
                    "",
                    "unrecognized environment variable",
                    &[("environment-variable", &pair)],
                );
            }
        }
        Ok(())
    }

    fn read(
        &self,
        spec: &'static Spec,
        path: Vec<&'static str>,
        words: &[String],
    ) -> Outcome<Line> {
        let mut line = no_line();
        line.path = path;
        for f in self.globals.iter().chain(spec.flags) {
            line.defaults.insert(f.name, f.default);
        }
        let usage = || {
            if spec.name.is_empty() {
                self.root_help()
            } else {
                self.usage(spec, &line_path(&line.path))
            }
        };
        let fail = |message: String, usage: String| {
            Err(Exit { after: usage, ..Exit::new(exit::ERROR, message) })
        };
        let usage = usage();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                line.dash_at = Some(line.args.len());
                line.args.extend(words.by_ref().cloned());
                break;
            }
            if let Some(body) = word.strip_prefix("--") {
                let (name, given) = match body.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (body, None),
                };
                let Some(flag) = spec.flags.iter().chain(self.globals).find(|f| f.name == name)
                else {
                    if name == "help" {
                        return Err(Exit::new(HELP, ""));
                    }
                    return fail(format!("unknown flag: --{name}"), usage);
                };
                let value = match given {
                    Some(value) => value,
                    None if flag.kind == Kind::Bool => "true".into(),
                    None => match words.next() {
                        Some(value) => value.clone(),
                        None => return fail(format!("flag needs an argument: --{name}"), usage),
                    },
                };
                if let Err(e) = line.set(flag, &value) {
                    return fail(invalid(flag, &value, &e), usage);
                }
            } else if let Some(body) = word.strip_prefix('-').filter(|b| !b.is_empty()) {
                let chars = body.char_indices();
                for (at, c) in chars {
                    let Some(flag) =
                        spec.flags.iter().chain(self.globals).find(|f| f.short == Some(c))
                    else {
                        if c == 'h' {
                            return Err(Exit::new(HELP, ""));
                        }
                        return fail(
                            format!(
                                "unknown shorthand flag: {} in -{}",
                                quote_char(c),
                                &body[at..]
                            ),
                            usage,
                        );
                    };
                    let rest = &body[at + c.len_utf8()..];
                    if flag.kind == Kind::Bool && !rest.starts_with('=') {
                        line.set(flag, "true").expect("true is a bool");
                        continue;
                    }
                    let value = match rest.strip_prefix('=').unwrap_or(rest) {
                        "" => match words.next() {
                            Some(value) => value.clone(),
                            None => {
                                return fail(
                                    format!("flag needs an argument: {} in -{body}", quote_char(c)),
                                    usage,
                                );
                            }
                        },
                        rest => rest.to_owned(),
                    };
                    if let Err(e) = line.set(flag, &value) {
                        return fail(invalid(flag, &value, &e), usage);
                    }
                    break;
                }
            } else {
                line.args.push(word.clone());
            }
        }
        Ok(line)
    }

    fn usage(&self, spec: &Spec, path: &[&str]) -> String {
        let full = format!("{} {}", self.program, path.join(" "));
        let space = if spec.usage.is_empty() { "" } else { " " };
        if !spec.subs.is_empty() {
            let mut out = format!("Usage:\n  {full} [command]\n\nAvailable Commands:\n");
            for sub in spec.subs {
                out.push_str(&format!("  {:<11} {}\n", sub.name, sub.about));
            }
            out.push_str(&format!("\nFlags:\n{}", table(spec.flags, Some(spec.name))));
            return out;
        }
        format!(
            "Usage:\n  {full}{space}{} [flags]\n\nFlags:\n{}",
            spec.usage,
            table(spec.flags, Some(spec.name))
        )
    }

    fn help(&self, spec: &Spec, path: &[&str]) -> String {
        let mut out = format!("{}\n\n{}", spec.about, self.usage(spec, path));
        out.push('\n');
        if !spec.subs.is_empty() {
            out.push_str(&format!(
                "Use \"{} {} [command] --help\" for more information about a command.\n",
                self.program,
                path.join(" ")
            ));
        }
        out.push_str(&format!(
            "Use \"{} options\" for a list of global command-line options (applies to all commands).\n",
            self.program
        ));
        out
    }

    pub fn root_help(&self) -> String {
        let mut out = format!("Usage:\n  {} [command]\n", self.program);
        for group in self.groups {
            out.push_str(&format!("\n{group}\n"));
            for spec in self.commands.iter().filter(|s| s.group == *group) {
                out.push_str(&format!("  {:<11} {}\n", spec.name, spec.about));
            }
        }
        out.push_str(&format!(
            "\nUse \"{} [command] --help\" for more information about a command.\n",
            self.program
        ));
        out
    }

    pub fn options(&self) -> String {
        format!(
            "The following options can be passed to any command:\n\n{}\n",
            table(self.globals, None)
        )
    }
}

fn line_path(path: &[&'static str]) -> Vec<&'static str> {
    path.to_vec()
}

fn no_line() -> Line {
    Line {
        path: Vec::new(),
        args: Vec::new(),
        dash_at: None,
        values: BTreeMap::new(),
        defaults: BTreeMap::new(),
    }
}

fn quote_char(c: char) -> String {
    format!("'{c}'")
}

fn invalid(flag: &Flag, value: &str, why: &str) -> String {
    let name = match flag.short {
        Some(c) => format!("-{c}, --{}", flag.name),
        None => format!("--{}", flag.name),
    };
    format!(
        "invalid argument {} for {} flag: {why}",
        go::quote(value.as_bytes()),
        go::quote(name.as_bytes())
    )
}

/// The flags, aligned and sorted, with `help` when the command has a name.
fn table(flags: &[Flag], command: Option<&str>) -> String {
    let mut rows: Vec<(String, String, String)> = flags
        .iter()
        .map(|f| {
            let kind = match f.kind {
                Kind::Bool => "",
                Kind::Int => " int",
                Kind::Text => " string",
                Kind::Time => " duration",
                Kind::List => " strings",
            };
            let default = match (f.kind, f.default) {
                (_, "") | (Kind::Bool, "false") | (Kind::Int, "0") => String::new(),
                (Kind::Text, d) => format!(" (default \"{d}\")"),
                (Kind::List, d) => format!(" (default [{d}])"),
                (_, d) => format!(" (default {d})"),
            };
            let dash = match f.short {
                Some(c) => format!("  -{c}, --"),
                None => "      --".into(),
            };
            (f.name.to_owned(), format!("{dash}{}{kind}", f.name), format!("{}{default}", f.about))
        })
        .collect();
    if let Some(command) = command {
        rows.push(("help".into(), "  -h, --help".into(), format!("help for {command}")));
    }
    rows.sort();
    let width = rows.iter().map(|r| r.1.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(_, left, right)| format!("{left:<width$}   {right}\n")).collect()
}

/// Not an exit code: `--help` was met.
const HELP: i32 = i32::MIN;

static ROOT: Spec = Spec { name: "", usage: "", about: "", group: "", flags: &[], subs: &[] };
