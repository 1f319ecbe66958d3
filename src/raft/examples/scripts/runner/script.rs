//! A file of blocks: directive, input, `----`, expected output.

/// A parsed file that can be written back with other expectations.
pub struct Script {
    parts: Vec<Part>,
}

enum Part {
    /// A comment or blank line.
    Line(String),
    Block(Block),
}

/// One block.
pub struct Block {
    /// Line number of the directive, from 1.
    pub line: usize,
    /// The directive as written, continuation lines joined.
    pub directive: String,
    pub command: String,
    pub arguments: Vec<Argument>,
    /// Lines between the directive and `----`, trimmed.
    pub input: String,
    /// With a newline at the end of each line.
    pub expected: String,
    /// Everything up to `----`, to be written back.
    head: Vec<String>,
}

/// `key`, `key=value` or `key=(value,value)`.
pub struct Argument {
    pub key: String,
    pub values: Vec<String>,
}

const FENCE: &str = "----";

impl Script {
    pub fn parse(text: &str) -> Script {
        let mut lines = text.lines().enumerate().peekable();
        let mut parts = Vec::new();
        while let Some((number, line)) = lines.next() {
            if line.trim().is_empty() || line.starts_with('#') {
                parts.push(Part::Line(line.to_owned()));
                continue;
            }
            let mut head = vec![line.to_owned()];
            let mut directive = line.trim().to_owned();
            while directive.ends_with('\\') {
                directive.pop();
                let Some((_, next)) = lines.next() else { break };
                head.push(next.to_owned());
                directive = format!("{} {}", directive.trim_end(), next.trim());
            }
            let mut input = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| *line != FENCE) {
                head.push(line.to_owned());
                input.push(line);
            }
            lines.next();
            let mut expected = String::new();
            if lines.next_if(|(_, line)| *line == FENCE).is_some() {
                let rest: Vec<&str> = std::iter::from_fn(|| {
                    let (_, line) = lines.next()?;
                    let ends = line == FENCE && lines.peek().is_some_and(|(_, l)| *l == FENCE);
                    (!ends).then_some(line)
                })
                .collect();
                lines.next();
                expected = rest.iter().map(|line| format!("{line}\n")).collect();
            } else {
                while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
                    expected += &format!("{line}\n");
                }
            }
            let mut words = split_words(&directive).into_iter();
            parts.push(Part::Block(Block {
                line: number + 1,
                command: words.next().unwrap_or_default(),
                arguments: words.map(|word| Argument::parse(&word)).collect(),
                directive,
                input: input.join("\n").trim().to_owned(),
                expected,
                head,
            }));
        }
        Script { parts }
    }

    pub fn blocks_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.parts.iter_mut().filter_map(|part| match part {
            Part::Block(block) => Some(block),
            Part::Line(_) => None,
        })
    }

    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Line(line) => out += &format!("{line}\n"),
                Part::Block(block) => {
                    for line in &block.head {
                        out += &format!("{line}\n");
                    }
                    let fence = if block.expected.lines().any(str::is_empty) {
                        "----\n----\n"
                    } else {
                        "----\n"
                    };
                    out += fence;
                    out += &block.expected;
                    if fence.len() > 5 {
                        out += fence;
                    }
                }
            }
        }
        out
    }
}

/// Words are separated by blanks, except within parentheses.
fn split_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut depth) = (Vec::new(), String::new(), 0);
    for c in line.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if c.is_whitespace() && depth <= 0 {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

impl Argument {
    fn parse(word: &str) -> Argument {
        let Some((key, value)) = word.split_once('=') else {
            return Argument { key: word.to_owned(), values: Vec::new() };
        };
        let list = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
        let values = match list {
            Some(list) if list.trim().is_empty() => Vec::new(),
            Some(list) => list.split(',').map(|value| value.trim().to_owned()).collect(),
            None => vec![value.to_owned()],
        };
        Argument { key: key.to_owned(), values }
    }
}

impl Block {
    /// Arguments without a value, which stand first and mean ids or data.
    pub fn plain(&self) -> Vec<&str> {
        self.arguments.iter().filter(|a| a.values.is_empty()).map(|a| a.key.as_str()).collect()
    }

    /// The values of `key`, if it is given.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.arguments.iter().find(|a| a.key == key).map(|a| a.values.as_slice())
    }

    /// The single value of `key`, if it is given and can be read as a `T`.
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        match self.values(key) {
            None => Ok(None),
            Some([value]) => {
                value.parse().map(Some).map_err(|_| format!("cannot read {key}={value}"))
            }
            Some(_) => Err(format!("{key} needs one value")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<bool, String> {
        Ok(self.value(key)?.unwrap_or(false))
    }
}
