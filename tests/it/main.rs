//! The server as its users see it: real processes on loopback.

mod bench;
mod clients;
mod config;
mod damage;
mod downgrade;
mod exchange;
mod garbage;
mod gateway;
mod headers;
mod http;
mod keepalive;
mod kv;
mod leaderless;
mod lease;
mod library;
mod limits;
mod member;
mod metrics;
mod mixed;
mod recipes;
mod refuse;
mod restart;
mod unix;
mod watch;
mod websocket;

use norn_tests::pb::ResponseHeader;
use tonic::{Code, Status};

/// The call was refused with exactly this code and text.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    match answer {
        Ok(answer) => panic!("accepted: {answer:?}, expected {code:?} {text:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}

/// The revision in a header.
#[track_caller]
fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}
