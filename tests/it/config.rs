//! The configuration file.

use std::process::Command;
use std::time::Duration;

use norn_tests::command::{run, server_path};
use norn_tests::{Server, Setup};

const LIMIT: Duration = Duration::from_secs(20);

/// The flags of a server, as a file. Numbers and booleans are such in a file.
fn as_file(arguments: &[String]) -> String {
    let mut yaml = String::new();
    for argument in arguments {
        let (key, value) = argument.trim_start_matches('-').split_once('=').unwrap();
        let is_text = value.parse::<i64>().is_err() && value.parse::<bool>().is_err();
        let quote = if is_text { "'" } else { "" };
        yaml.push_str(&format!("{key}: {quote}{value}{quote}\n"));
    }
    yaml
}

#[tokio::test]
async fn a_file_takes_the_place_of_flags_and_variables() {
    for is_variable in [false, true] {
        let named = Setup { name: "from-file".to_owned(), ..Setup::quick() };
        let mut server = Server::prepare(named);
        let path = server.dir().join("etcd.yml");
        let rest = "proxy: 'off'\nno-such-key: [1]\nlog-outputs: [stderr]\nclient-transport-security:\n  cert-file:\n";
        std::fs::write(&path, as_file(&server.arguments()) + rest).unwrap();
        // What the command line says besides is not looked at, nor is the rest of the environment.
        server.setup = Setup { name: "from-flags".to_owned(), ..Setup::default() };
        if is_variable {
            server
                .setup
                .variables
                .push(("ETCD_CONFIG_FILE".to_owned(), path.display().to_string()));
        } else {
            server.setup.flags.push(format!("--config-file={}", path.display()));
        }
        server.setup.variables.push(("ETCD_HEARTBEAT_INTERVAL".to_owned(), "nonsense".to_owned()));
        server.launch();
        server.wait_log("loaded server configuration, other configuration");
        server.wait_ready();
        let members = server.client().member_list().await.unwrap().members;
        assert_eq!(members[0].name, "from-file");
    }
}

#[test]
fn mistakes_in_a_file_end_with_1_and_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yml");
    let json = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
    for (yaml, text) in [
        ("a: [", "error converting YAML to JSON: yaml: ".to_owned()),
        ("- a", format!("{json} array into Go value of type embed.configYAML")),
        (
            "heartbeat-interval: '5'",
            format!("{json} string into Go struct field configYAML.Config.heartbeat-interval of type uint"),
        ),
        (
            "grpc-keepalive-timeout: 5s",
            format!("{json} string into Go struct field configYAML.Config.grpc-keepalive-timeout of type time.Duration"),
        ),
        (
            "peer-transport-security: {cert-file: 1}",
            format!("{json} number into Go struct field securityConfig.configJSON.peer-transport-security.cert-file of type string"),
        ),
        (
            "listen-peer-urls: localhost:1",
            "unexpected error setting up listen-peer-urls: URL scheme must be http, https, unix, or unixs: localhost:1".to_owned(),
        ),
        ("election-timeout: 50", "should be at least as 5 times as".to_owned()),
        ("feature-gates: Foo=true", "unrecognized feature gate: Foo".to_owned()),
    ] {
        std::fs::write(&path, yaml).unwrap();
        let output = run(
            Command::new(server_path()).current_dir(dir.path()).arg("--config-file").arg(&path),
            LIMIT,
        );
        assert_eq!(output.status.code(), Some(1), "{yaml}: {output:#?}");
        assert!(output.stderr.contains(&text), "{yaml}: no {text:?} in {output:#?}");
    }
    let missing = run(Command::new(server_path()).arg("--config-file=/no/such/file"), LIMIT);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("open /no/such/file: no such file or directory"));
    // Flags are read all the same.
    let unknown = ["--config-file=/no/such/file", "--no-such-flag"];
    let unknown = run(Command::new(server_path()).args(unknown), LIMIT);
    assert_eq!(unknown.status.code(), Some(2));
}
