//! How a command ends: etcdctl's exit codes and the message after `Error: `.

use std::fmt;

pub const ERROR: i32 = 1;
pub const BAD_CONNECTION: i32 = 2;
pub const INVALID_INPUT: i32 = 3;
pub const BAD_FEATURE: i32 = 4;
pub const INTERRUPTED: i32 = 5;
pub const BAD_ARGS: i32 = 128;

/// A command that failed. `after` is printed to stderr below the error line (usage text of a bad flag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// Empty: nothing is printed (the exit code of a child process).
    pub message: String,
    pub after: String,
}

pub type Outcome<T = ()> = Result<T, Exit>;

impl Exit {
    pub fn new(code: i32, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), after: String::new() }
    }
}

/// Wrong count or form of arguments.
pub fn bad_args<T>(message: impl fmt::Display) -> Outcome<T> {
    Err(Exit::new(BAD_ARGS, message))
}

/// The command itself failed.
pub fn failed<T>(message: impl fmt::Display) -> Outcome<T> {
    Err(Exit::new(ERROR, message))
}
