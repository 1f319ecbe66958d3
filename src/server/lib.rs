//! The daemon around `norn-node`: connections, files, clocks, other members. The only home of tokio, HTTP and real
//! files.
//!
//! One thread runs everything but the disk: connections are tasks on it, and so is the node's turn (see
//! [`core`](mod@core)). Two threads write and sync (see [`file_disk`]).

pub mod authority;
pub mod body;
pub mod calls;
pub mod client;
pub mod collected;
pub mod config;
pub mod config_file;
pub mod core;
pub mod debug_http;
pub mod file_disk;
pub mod flags;
pub mod frames;
pub mod gateway;
pub mod go_paths;
pub mod go_text;
pub mod go_values;
pub mod grpc;
pub mod http2;
pub mod http_api;
pub mod json;
pub mod json_message;
pub mod json_tokens;
pub mod json_values;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod peer_codec;
pub mod peer_http;
pub mod pings;
pub mod profile_file;
pub mod profiles;
pub mod received;
pub mod recipes;
pub mod rest;
pub mod runtime;
pub mod serve;
pub mod streams;
pub mod transport;
pub mod url;
pub mod websocket;

/// This machine's architecture in Go's words: scripts compare them.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
