//! Log lines for operators and scripts, collected and never written anywhere.
//!
//! The core has no logger. It keeps lines until the caller drains them, and formats nothing at all below
//! the threshold, which is `Off` at first.

/// Severity of a [`LogLine`], and threshold below which lines are not collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    /// Threshold only: nothing is collected.
    #[default]
    Off,
}

impl LogLevel {
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Debug => "DEBUG",
            LogLevel::Info => "INFO",
            LogLevel::Warn => "WARN",
            LogLevel::Error => "ERROR",
            LogLevel::Off => "OFF",
        }
    }
}

/// One line, in etcd's wording where etcd has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub text: String,
}

/// Bound on undrained lines: a caller that never drains loses the newest, not its memory.
const LINES_MAX: usize = 65_536;

/// Collects lines at or above a threshold until they are drained.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogSink {
    threshold: LogLevel,
    lines: Vec<LogLine>,
}

impl LogSink {
    pub(crate) fn set_threshold(&mut self, threshold: LogLevel) {
        self.threshold = threshold;
    }

    pub(crate) fn accepts(&self, level: LogLevel) -> bool {
        level >= self.threshold && self.threshold != LogLevel::Off && self.lines.len() < LINES_MAX
    }

    #[cold]
    pub(crate) fn push(&mut self, level: LogLevel, text: String) {
        self.lines.push(LogLine { level, text });
    }

    pub(crate) fn drain(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.lines)
    }
}

/// `note!(sink, Info, "...", args)`: formats only if the sink wants the line.
macro_rules! note {
    ($sink:expr, $level:ident, $($arg:tt)*) => {
        if $sink.accepts($crate::sink::LogLevel::$level) {
            let text = format!($($arg)*);
            $sink.push($crate::sink::LogLevel::$level, text);
        }
    };
}
pub(crate) use note;
