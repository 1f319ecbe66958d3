//! Bytes that change on the disk: reported with file and offset, and never served.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use norn_tests::poll::until;
use norn_tests::req::*;
use norn_tests::{Server, Setup};

const LIMIT: Duration = Duration::from_secs(30);

/// Files of the revision log with this ending, in order of their names.
fn files(server: &Server, ending: &str) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(server.data_dir().join("member/rev")).expect("the revision log");
    let mut files: Vec<PathBuf> = dir.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == ending));
    files.sort();
    files
}

/// Flips a bit in the middle of where `text` stands first; gives back the offset.
fn flip(file: &Path, text: &[u8]) -> u64 {
    let bytes = std::fs::read(file).expect("a readable file");
    let at = bytes.windows(text.len()).position(|window| window == text);
    let at = at.unwrap_or_else(|| panic!("no {text:?} in {}", file.display()));
    let at = at + text.len() / 2;
    let handle = OpenOptions::new().write(true).open(file).expect("a writable file");
    handle.write_all_at(&[bytes[at] ^ 4], at as u64).expect("one byte");
    at as u64
}

/// Checkpoints come often, and enough is written that the first one takes an index image.
fn setup() -> Setup {
    Setup::quick().flag("--snapshot-count=60")
}

/// Writes some forty megabytes over some keys, a few of them leased, and waits for an index image.
async fn fill(server: &Server) {
    let client = server.client();
    client.lease_grant(7, 3600).await.unwrap();
    let large = "v".repeat(600_000);
    for i in 0..70 {
        let mut request = put(&format!("k{i:02}"), &format!("value-{i:02}-{large}"));
        request.lease = if i % 10 == 0 { 7 } else { 0 };
        client.put(request).await.unwrap();
    }
    until("an index image", LIMIT, || files(server, "idx").pop());
    // The image counts once the checkpoint behind it has replaced the older one.
    until("its checkpoint", LIMIT, || {
        let snap = std::fs::read_dir(server.data_dir().join("member/snap")).ok()?;
        let names = snap.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.into_iter().find(|name| name.ends_with(".snap"))
    });
    client.put(put("k01", "behind the image")).await.unwrap();
    client.delete(del("k02")).await.unwrap();
}

/// The number in `"name":"..."`.
fn field(line: &str, name: &str) -> i64 {
    let begin = line.find(&format!("\"{name}\":\"")).expect("the field") + name.len() + 4;
    line[begin..].split('"').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_restart_takes_the_index_from_its_image() {
    let mut server = Server::start_with(setup());
    fill(&server).await;
    let before = server.client().hash_kv(0).await.unwrap();
    let listed = server.client().range(all()).await.unwrap();
    server.crash_and_restart();
    let line = server.wait_log("key index is ready");
    assert!(field(&line, "image-revision") >= 50, "{line}");
    let client = server.client();
    let after = client.hash_kv(0).await.unwrap();
    assert_eq!((after.hash, after.hash_revision), (before.hash, before.hash_revision));
    assert_eq!(client.range(all()).await.unwrap().kvs, listed.kvs);
    assert_eq!(client.lease_ttl(7, true).await.unwrap().keys.len(), 7);
    client.lease_revoke(7).await.unwrap();
    assert_eq!(client.range(all()).await.unwrap().count, 69 - 7);
}

#[tokio::test]
async fn a_damaged_index_image_costs_a_scan_and_a_line() {
    let mut server = Server::start_with(setup());
    fill(&server).await;
    let before = server.client().hash_kv(0).await.unwrap().hash;
    server.kill();
    for image in files(&server, "idx") {
        flip(&image, b"k");
    }
    server.launch();
    let line = server.wait_log("index image not used");
    assert!(line.contains(".idx: corrupt at byte"), "{line}");
    server.wait_ready();
    let line = server.wait_log("key index is ready");
    assert_eq!(field(&line, "image-revision"), 0, "{line}");
    assert_eq!(server.client().hash_kv(0).await.unwrap().hash, before);
}

/// The process ends and says where: file, an offset at or before the damage, and what to do.
fn assert_ends_naming(server: &mut Server, file: &Path, at: u64) {
    let status = server.wait_exit(LIMIT);
    assert!(!status.success(), "{status:?}");
    let name = file.file_name().unwrap().to_string_lossy();
    let said = until("the report", LIMIT, || {
        server.lines().into_iter().find(|l| l.contains(&format!("{name}: corrupt at byte ")))
    });
    let offset = said.split("corrupt at byte ").nth(1).unwrap();
    let offset: u64 = offset.split(':').next().unwrap().parse().unwrap();
    assert!(offset <= at && at < offset + 101_000, "byte {at} in: {said}");
    assert!(said.contains("restore this member"), "{said}");
}

#[tokio::test]
async fn a_bit_flipped_before_the_checkpoint_ends_the_next_start() {
    for has_image in [true, false] {
        let mut server = Server::start_with(setup());
        fill(&server).await;
        server.kill();
        if !has_image {
            files(&server, "idx").iter().for_each(|image| std::fs::remove_file(image).unwrap());
        }
        let segment = files(&server, "seg").remove(0);
        let at = flip(&segment, b"value-05-vvvv");
        server.launch();
        assert_ends_naming(&mut server, &segment, at);
    }
}

#[tokio::test]
async fn a_bit_flipped_under_a_running_server_is_not_served() {
    let mut server = Server::start_with(setup());
    fill(&server).await;
    let client = server.client();
    // (Once it is written, it comes from there.)
    let segment = until("the value in the file", LIMIT, || {
        files(&server, "seg").into_iter().find(|file| {
            let bytes = std::fs::read(file).unwrap();
            bytes.windows(8).any(|window| window == b"value-05")
        })
    });
    let at = flip(&segment, b"value-05-vvvv");
    // Whole records are still served; the read that wants the damaged one ends this member, so that a peer serves it.
    assert_eq!(client.range(get("k06")).await.unwrap().count, 1);
    client.range(get("k05")).await.expect_err("the value is damaged");
    assert_ends_naming(&mut server, &segment, at);
}
