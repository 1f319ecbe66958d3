//! Log lines as etcd's operators know them: one JSON object per line on stderr (or files), with the same keys.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;

use crate::runtime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            "dpanic" | "panic" | "fatal" => Level::Fatal,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }
}

#[derive(Debug)]
enum Output {
    Stderr,
    Stdout,
    File(Mutex<File>),
}

/// Where lines go. Cheap to share; a line is written with one call.
#[derive(Debug)]
pub struct Log {
    threshold: Level,
    is_console: bool,
    outputs: Vec<Output>,
}

/// A field's value.
pub enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Bool(bool),
    List(&'a [String]),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Value<'a> {
        Value::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Value<'a> {
        Value::Text(text)
    }
}

impl<'a> From<&'a [String]> for Value<'a> {
    fn from(list: &'a [String]) -> Value<'a> {
        Value::List(list)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Value::Bool(flag)
    }
}

impl Log {
    /// # Errors
    /// The text that etcd refuses the options with.
    pub fn new(level: &str, format: &str, outputs: &str) -> Result<Log, String> {
        let threshold =
            Level::parse(level).ok_or_else(|| format!("unrecognized level: \"{level}\""))?;
        let is_console = match format {
            "json" => false,
            "console" => true,
            _ => {
                return Err(format!(
                    "unknown log format: {format}, supported values json, console"
                ));
            }
        };
        let names: Vec<&str> = outputs.split(',').collect();
        if names.len() > 1 && names.contains(&"default") {
            return Err("multi logoutput for \"default\" is not supported yet".into());
        }
        let mut opened = Vec::new();
        for name in names {
            opened.push(match name {
                "default" | "stderr" | "systemd/journal" => Output::Stderr,
                "stdout" => Output::Stdout,
                path => {
                    let file = OpenOptions::new().create(true).append(true).open(path);
                    Output::File(Mutex::new(file.map_err(|error| format!("{path}: {error}"))?))
                }
            });
        }
        Ok(Log { threshold, is_console, outputs: opened })
    }

    pub fn info(&self, text: &str, fields: &[(&str, Value<'_>)]) {
        self.line(Level::Info, None, text, fields);
    }

    pub fn warn(&self, text: &str, fields: &[(&str, Value<'_>)]) {
        self.line(Level::Warn, None, text, fields);
    }

    pub fn error(&self, text: &str, fields: &[(&str, Value<'_>)]) {
        self.line(Level::Error, None, text, fields);
    }

    pub fn line(
        &self,
        level: Level,
        logger: Option<&str>,
        text: &str,
        fields: &[(&str, Value<'_>)],
    ) {
        if level < self.threshold {
            return;
        }
        let mut line = String::with_capacity(160);
        let now = runtime::time::unix();
        let ts = timestamp(now.as_secs(), now.subsec_micros());
        let mut body = String::new();
        for (name, value) in fields {
            let _ = write!(body, ",{}:", quoted(name));
            match value {
                Value::Text(text) => body.push_str(&quoted(text)),
                Value::Number(number) => {
                    let _ = write!(body, "{number}");
                }
                Value::Bool(flag) => {
                    let _ = write!(body, "{flag}");
                }
                Value::List(list) => {
                    let items: Vec<String> = list.iter().map(|item| quoted(item)).collect();
                    let _ = write!(body, "[{}]", items.join(","));
                }
            }
        }
        if self.is_console {
            let fields = body.strip_prefix(',').map_or(String::new(), |b| format!("\t{{{b}}}"));
            let _ = writeln!(line, "{ts}\t{}\tserver/norn.rs:1\t{text}{fields}", level.name());
        } else {
            let logger =
                logger.map_or(String::new(), |name| format!("\"logger\":{},", quoted(name)));
            let _ = writeln!(
                line,
                "{{\"level\":\"{}\",\"ts\":\"{ts}\",{logger}\"caller\":\"server/norn.rs:1\",\"msg\":{}{body}}}",
                level.name(),
                quoted(text),
            );
        }
        for output in &self.outputs {
            // (A log that cannot be written must not stop the server.)
            let _ = match output {
                Output::Stderr => runtime::stderr().write_all(line.as_bytes()),
                Output::Stdout => std::io::stdout().write_all(line.as_bytes()),
                Output::File(file) => match file.lock() {
                    Ok(mut file) => file.write_all(line.as_bytes()),
                    Err(_) => Ok(()),
                },
            };
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `2006-01-02T15:04:05.000000Z`, in UTC.
pub fn timestamp(unix_seconds: u64, micros: u32) -> String {
    let (year, month, day) = civil(unix_seconds / 86_400);
    let second = unix_seconds % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Date of a day since 1970 in the proleptic Gregorian calendar (counting years from March, so that the leap day is
/// the last of its year).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_827_696, 5), "2000-02-29T12:34:56.000005Z");
        assert_eq!(timestamp(1_795_219_200, 0), "2026-11-21T00:00:00.000000Z");
    }
}
