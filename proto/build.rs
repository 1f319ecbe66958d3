//! Compiles the .proto files with a pure-Rust compiler (no `protoc` needed) into Rust.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: &[&str] = &[
        "auth.proto",
        "etcdserver.proto",
        "kv.proto",
        "lease.proto",
        "membership.proto",
        "raft_internal.proto",
        "rpc.proto",
        "v3election.proto",
        "v3lock.proto",
    ];
    println!("cargo:rerun-if-changed=etcd");
    let mut descriptors = protox::compile(FILES, ["etcd"])?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        tonic_prost_build::configure()
            .bytes(".")
            .build_transport(false)
            .compile_fds(descriptors)?;
    } else {
        prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    }
    Ok(())
}
