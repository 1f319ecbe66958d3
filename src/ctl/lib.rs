//! The command line side of Norn: `nornctl`, which talks to any etcd v3.7-compatible endpoint exactly as etcdctl does.
//!
//! One noun per file. A command turns flags into a request, `connect` carries it, `print` turns the reply into text.

pub mod alarm;
pub mod auth;
pub mod commands;
pub mod connect;
pub mod endpoint;
pub mod exit;
pub mod flags;
pub mod go;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod member;
pub mod print;
pub mod session;
pub mod snapshot;
pub mod tls;
pub mod txn;
pub mod watch;
