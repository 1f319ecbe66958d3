//! A script: lines of commands, as a person would type them, and a few words about what goes on meanwhile.
//!
//! | line | what |
//! |---|---|
//! | `put a b` | etcdctl with these words; compared: standard output and error, exit code |
//! | `\| text` | a line of standard input for the command above it |
//! | `:utl snapshot status x` | etcdutl |
//! | `:start w watch a` | a command that stays, under the name `w`, its standard input open |
//! | `:feed w text` | a line for it |
//! | `:await w 2 text` | until it has written `text` twice; `\n` in it is the end of a line |
//! | `:interrupt w` | SIGINT, the end of `w`, and then compared as a whole |
//! | `:wait w` | as that, for one that ends by itself |
//! | `:until 'text' get a` | again until the text is in the answer; the last answer is compared |
//! | `:capture lease 1` | word 1 of the last output is from here on `{lease}`, and differs between the servers |
//! | `:revision then` | `{then}` is from here on the newest revision of this moment |
//! | `:settle` | all members have applied what was acknowledged |
//! | `:launch n2`, `:terminate n2` | a member's process |
//!
//! `'...'` and `"..."` are quotes without escapes. `{main}` is the endpoint of commands without one, `{all}` all of them,
//! `{n1}` one member's, `{n1.peer}` its peer URL, `{n1.id}` its id, `{dir}` a folder, `{mib}` a mebibyte of text.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Ctl { words: Vec<String>, stdin: String },
    Utl { words: Vec<String> },
    Start { name: String, words: Vec<String> },
    Feed { name: String, text: String },
    Await { name: String, count: usize, text: String },
    Interrupt { name: String },
    Wait { name: String },
    Until { text: String, words: Vec<String>, stdin: String },
    Capture { name: String, word: usize },
    Revision { name: String },
    Settle,
    Launch { name: String },
    Terminate { name: String },
}

#[derive(Debug, Clone)]
pub struct Line {
    /// File and line.
    pub number: String,
    pub text: String,
    pub step: Step,
}

/// The scripts are ours: a line that cannot be read is a mistake in them, and ends the program.
pub fn parse(file: &str, text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (i, text) in text.lines().enumerate() {
        let text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let bad = || format!("{file}:{}: cannot read {text:?}", i + 1);
        if let Some(input) = text.strip_prefix('|') {
            let last = lines.last_mut().unwrap_or_else(|| panic!("{}", bad()));
            match &mut last.step {
                Step::Ctl { stdin, .. } | Step::Until { stdin, .. } => {
                    stdin.push_str(input.strip_prefix(' ').unwrap_or(input));
                    stdin.push('\n');
                }
                _ => panic!("{}", bad()),
            }
            continue;
        }
        let step = directive(text).unwrap_or_else(|| panic!("{}", bad()));
        lines.push(Line { number: format!("{file}:{}", i + 1), text: text.to_owned(), step });
    }
    lines
}

fn directive(text: &str) -> Option<Step> {
    let stdin = String::new();
    let Some(rest) = text.strip_prefix(':') else {
        return Some(Step::Ctl { words: split(text), stdin });
    };
    let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    // Text for and from a command is taken as it stands.
    let mut words = if matches!(verb, "feed" | "await") { vec![] } else { split(rest) }.into_iter();
    let mut next = || words.next();
    Some(match verb {
        "utl" => Step::Utl { words: split(rest) },
        "start" => Step::Start { name: next()?, words: words.collect() },
        "feed" => {
            let (name, text) = rest.split_once(' ')?;
            Step::Feed { name: name.to_owned(), text: text.to_owned() }
        }
        "await" => {
            let mut parts = rest.splitn(3, ' ');
            let (name, count) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            Step::Await { name, count, text: parts.next()?.replace("\\n", "\n") }
        }
        "interrupt" => Step::Interrupt { name: next()? },
        "wait" => Step::Wait { name: next()? },
        "until" => Step::Until { text: next()?, words: words.collect(), stdin },
        "capture" => Step::Capture { name: next()?, word: next()?.parse().ok()? },
        "revision" => Step::Revision { name: next()? },
        "settle" => Step::Settle,
        "launch" => Step::Launch { name: next()? },
        "terminate" => Step::Terminate { name: next()? },
        _ => return None,
    })
}

fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == ' ' => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quote stays open: {text}");
    words.extend(word);
    words
}
