//! The harness: real server processes on loopback, gRPC and HTTP clients for them, and the few tools the tests share.
//! The same tests run against `nornd` and, with `NORN_TEST_SERVER=/path/to/etcd`, against a real etcd.
//!
//! | module | what |
//! |---|---|
//! | `server` | one process: flags, log, signals, restart on the same ports and directory |
//! | `cluster` | several of them |
//! | `client` | typed gRPC calls with deadlines, and a watch stream |
//! | `bare` | one call without a client library |
//! | `req` | short forms of the requests |
//! | `http` | one HTTP/1.1 exchange |
//! | `websocket` | a WebSocket client without manners |
//! | `command` | a child process with a deadline; where the stock tools are |
//! | `port` | ports nobody else uses |
//! | `poll` | waiting for a condition |
//! | `program` | options, runtime and end of the programs beside the tests |
//! | `rng` | seeded numbers |

pub mod bare;
pub mod client;
pub mod cluster;
pub mod command;
pub mod http;
pub mod poll;
pub mod port;
pub mod program;
pub mod req;
pub mod rng;
pub mod server;
pub mod websocket;

pub use client::{Client, WatchStream};
pub use cluster::Cluster;
pub use norn_proto::etcdserverpb as pb;
pub use norn_proto::mvccpb;
pub use norn_proto::v3electionpb as electionpb;
pub use norn_proto::v3lockpb as lockpb;
pub use server::{Server, Setup};
