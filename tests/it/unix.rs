//! Sockets that are files.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use norn_tests::command::run;
use norn_tests::http::get;
use norn_tests::{Server, Setup};

use crate::keepalive::Wire;

const LIMIT: Duration = Duration::from_secs(20);

/// One HTTP/1.1 answer.
fn ask(path: &std::path::Path, page: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: norn\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn clients_are_served_on_a_file_whatever_was_there_before() {
    let mut server = Server::prepare(Setup::quick());
    let path = server.dir().join("clients:0");
    // What a killed server leaves.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let url = format!("unix://{}", path.display());
    let urls = format!("--listen-client-urls={},{url}", server.client_url());
    server.setup.flags.push(urls);
    server.launch();
    server.wait_ready();
    norn_tests::poll::until("the file", LIMIT, || UnixStream::connect(&path).is_ok().then_some(()));
    let answer = ask(&path, "/version");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"etcdserver\":\"3.7.1\""), "{answer}");
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Wire::begin(stream).ping_is_fine();
    assert_eq!(get(&server.client_address(), "/health").status, 200, "and the other URL");
    server.terminate();
    assert!(!path.exists(), "an orderly end takes the file along");
}

/// The files of members are named by the host of their URL: relative, in the working directory. So all members here share one.
#[test]
fn members_meet_on_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers: Vec<Server> = (1..=3)
        .map(|i| Server::prepare(Setup { name: format!("n{i}"), ..Setup::default() }))
        .collect();
    let url = |name: &str| format!("unix://{name}:0");
    let members: Vec<String> =
        ["n1", "n2", "n3"].iter().map(|name| format!("{name}={}", url(name))).collect();
    for server in &mut servers {
        let url = url(&server.setup.name);
        server.setup.initial_cluster = Some(members.join(","));
        server.setup.dir = Some(dir.path().to_owned());
        server.setup.flags.push(format!("--listen-peer-urls={url}"));
        server.setup.flags.push(format!("--initial-advertise-peer-urls={url}"));
        server.launch();
    }
    for server in &mut servers {
        server.wait_ready();
        assert_eq!(get(&server.client_address(), "/health").status, 200);
    }
}

/// etcd asks for a key for sockets of clients only; between members nobody says TLS on them who has none.
#[test]
fn a_members_unixs_url_is_listened_on_without_a_key_and_https_is_not() {
    let mut server = Server::prepare(Setup::quick());
    let url = "unixs://n1:0";
    server.setup.dir = Some(server.dir().to_owned());
    server.setup.initial_cluster = Some(format!("n1={url}"));
    server.setup.flags.push(format!("--listen-peer-urls={url}"));
    server.setup.flags.push(format!("--initial-advertise-peer-urls={url}"));
    server.launch();
    server.wait_ready();
    let answer = ask(&server.dir().join("n1:0"), "/version");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let other = Server::prepare(Setup::quick());
    let mut command = other.command();
    command.arg(format!("--listen-peer-urls=https://{}", other.peer_address()));
    let output = run(&mut command, LIMIT);
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    let text = format!(
        "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
        other.peer_address()
    );
    assert!(output.stderr.contains(&text), "no {text} in {output:#?}");
}

#[test]
fn what_cannot_be_a_socket_is_refused_in_the_systems_words() {
    let server = Server::prepare(Setup::quick());
    let refused = |url: &str| {
        let mut command = server.command();
        command.arg(format!("--listen-client-urls={url}"));
        let output = run(&mut command, LIMIT);
        assert_eq!(output.status.code(), Some(1), "{output:#?}");
        output.stderr
    };
    let dir = server.dir().join("full");
    std::fs::create_dir_all(dir.join("x")).unwrap();
    let dir = dir.display().to_string();
    let text = format!("remove {dir}: directory not empty");
    let stderr = refused(&format!("unix://{dir}"));
    assert!(stderr.contains(&text), "no {text} in {stderr}");
    let text = format!("listen unix {dir}/no/s: bind: no such file or directory");
    let stderr = refused(&format!("unix://{dir}/no/s"));
    assert!(stderr.contains(&text), "no {text} in {stderr}");
    let text = "TLS key/cert (--cert-file, --key-file) must be provided for client url";
    let stderr = refused("unixs://norn:1");
    assert!(stderr.contains(text), "no {text} in {stderr}");
}
