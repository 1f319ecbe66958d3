//! The configuration file: any bytes as YAML, and settings that are known to be right or wrong.

use std::collections::BTreeMap;

use norn_server::config::ServerConfig;
use norn_server::config_file::{self, Problem};
use norn_server::flags::{FLAGS, Flag, Kind, Values};

use crate::choices::Choices;
use crate::memory;

/// What a file with aliases may unfold to: the parser's budget is 64 MiB of text (kept twice for a moment) and 250,000 nodes.
const UNFOLDED_BYTES: usize = 192 << 20;

/// The first byte says whether the rest is a file.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 4 {
        0 => drop(read(&String::from_utf8_lossy(choices.rest()))),
        1 => drop(read(&written(&mut choices))),
        _ => settings(&mut choices),
    }
}

/// Settings, or a refusal with words. What the settings say is taken or refused with words, too.
fn read(yaml: &str) -> Result<Values, Problem> {
    let fixed = if yaml.contains('*') { UNFOLDED_BYTES } else { 256 << 10 };
    // (A scalar of one letter, with its comma, is a node, its place and its text.)
    let read = memory::bounded(yaml.len(), 1000, fixed, || config_file::read(yaml));
    match &read {
        Ok(values) => {
            if let Err(text) = ServerConfig::new(values) {
                assert!(!text.is_empty());
            }
        }
        Err(Problem::Verify(text) | Problem::Line(text)) => assert!(!text.is_empty()),
    }
    read
}

/// Text that looks like YAML.
fn written(choices: &mut Choices<'_>) -> String {
    const PIECES: [&str; 28] = [
        "\n",
        ": ",
        "- ",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "&a ",
        "*a",
        "!!str ",
        "? ",
        "---\n",
        "null",
        "true",
        "1",
        "-1.5",
        "1e3",
        "http://h:1",
        "client-transport-security:\n  ",
        "é",
        "\t",
    ];
    let mut text = String::new();
    while !choices.is_done() {
        match choices.byte() % 3 {
            0 => {
                text.push_str(FLAGS[choices.below(FLAGS.len())].name);
                text.push_str(": ");
            }
            _ => text.push_str(PIECES[choices.below(PIECES.len())]),
        }
    }
    text
}

/// What a file may say of a setting.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Bool(bool),
    Number(i64),
    Fraction,
    Text,
    List,
}

/// Settings of which it is known what they are: each is what the file says, or the file is refused.
fn settings(choices: &mut Choices<'_>) {
    let known = |flag: &&Flag| {
        let is_kind = matches!(flag.kind, Kind::Bool | Kind::Uint | Kind::Int | Kind::Duration);
        is_kind && flag.name != "version"
    };
    let flags: Vec<&Flag> = FLAGS.iter().filter(known).collect();
    let mut said = BTreeMap::new();
    let mut yaml = String::new();
    for _ in 0..choices.below(6) {
        let flag = flags[choices.below(flags.len())];
        let value = match choices.byte() % 12 {
            0 => Said::Nothing,
            1 => Said::Fraction,
            2 => Said::Text,
            3 => Said::List,
            4..8 => Said::Bool(choices.bool()),
            // (Numbers of every size.)
            _ => Said::Number(choices.long() as i64 >> choices.below(64)),
        };
        let text = match value {
            Said::Nothing => String::new(),
            Said::Bool(is) => is.to_string(),
            Said::Number(number) => number.to_string(),
            Said::Fraction => "1.5".to_owned(),
            Said::Text => "'1'".to_owned(),
            Said::List => "[1]".to_owned(),
        };
        // (A name that comes twice is the parser's business.)
        if said.contains_key(flag.name) {
            continue;
        }
        said.insert(flag.name, (flag, value));
        yaml.push_str(&format!("{}: {text}\n", flag.name));
    }
    let is_right = |(flag, value): &(&Flag, Said)| match (flag.kind, value) {
        (_, Said::Nothing) | (Kind::Bool, Said::Bool(_)) => true,
        (Kind::Uint, Said::Number(number)) => *number >= 0,
        (Kind::Int | Kind::Duration, Said::Number(_)) => true,
        _ => false,
    };
    let read = read(&yaml);
    if !said.values().all(is_right) {
        assert!(read.is_err(), "taken:\n{yaml}");
        return;
    }
    let values = read.unwrap_or_else(|problem| panic!("{problem:?}:\n{yaml}"));
    for (name, (flag, value)) in said {
        match (flag.kind, value) {
            (Kind::Bool, Said::Bool(is)) => assert_eq!(values.bool(name), is, "{yaml}"),
            (Kind::Uint, Said::Number(n)) => {
                assert_eq!(i64::try_from(values.uint(name)), Ok(n), "{yaml}");
            }
            (Kind::Int, Said::Number(n)) => assert_eq!(values.int(name), n, "{yaml}"),
            // In nanoseconds; below zero is none.
            (_, Said::Number(n)) => {
                let ms = u64::try_from(n / 1_000_000).unwrap_or(0);
                assert_eq!(values.duration_ms(name), ms, "{yaml}");
            }
            _ => assert!(!values.is_set(name), "{yaml}"),
        }
    }
}
