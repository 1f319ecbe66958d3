//! Going back by one minor version, as far as members of this version take part in it.

use std::time::Duration;

use norn_tests::http::get;
use norn_tests::pb::downgrade_request::DowngradeAction;
use norn_tests::pb::{DowngradeInfo, DowngradeRequest};
use norn_tests::poll::until;
use norn_tests::{Client, Server};
use tonic::{Code, Status};

use crate::assert_refused;

async fn ask(client: &Client, action: DowngradeAction, version: &str) -> Result<String, Status> {
    let request = DowngradeRequest { action: action.into(), version: version.to_owned() };
    let answer = client.downgrade(request).await?;
    assert!(answer.header.is_some_and(|header| header.member_id != 0));
    Ok(answer.version)
}

fn wait_version(server: &Server, wanted: &str) {
    until(wanted, Duration::from_secs(20), || {
        let version = get(&server.client_address(), "/version").json();
        (version["etcdcluster"] == wanted).then_some(())
    });
}

#[tokio::test]
async fn a_downgrade_is_validated_enabled_and_canceled() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let server = Server::start();
    let client = server.client();
    wait_version(&server, "3.7.0");
    let info = async || client.status().await.unwrap().downgrade_info;
    let none = Some(DowngradeInfo::default());
    assert_eq!(info().await, none);
    let enabled = || get(&server.peer_address(), "/downgrade/enabled").text();
    assert_eq!(enabled(), "false");

    let invalid = "etcdserver: invalid downgrade target version";
    let format = "etcdserver: wrong downgrade target version format";
    for action in [Validate, Enable] {
        for version in ["3.5", "3.7.0", "3.8", "4.6", "2.6.0"] {
            assert_refused(ask(&client, action, version).await, Code::InvalidArgument, invalid);
        }
        for version in ["", "3", "v3.6", "3.6.x", "latest"] {
            assert_refused(ask(&client, action, version).await, Code::InvalidArgument, format);
        }
    }
    let unknown = client.downgrade(DowngradeRequest { action: 7, version: "3.6".into() }).await;
    assert_refused(unknown, Code::Unknown, "etcdserver: unknown method");
    assert_eq!(ask(&client, Validate, "3.6").await.unwrap(), "3.7");
    assert_eq!(ask(&client, Validate, "3.6.4-rc.1").await.unwrap(), "3.7");
    assert_eq!(ask(&client, Cancel, "").await.unwrap(), "3.7", "nothing to cancel");
    assert_eq!(info().await, none, "nothing was enabled");

    assert_eq!(ask(&client, Enable, "3.6.0").await.unwrap(), "3.7");
    let target = DowngradeInfo { enabled: true, target_version: "3.6.0".into() };
    assert_eq!(info().await, Some(target.clone()));
    assert_eq!(enabled(), "true");
    wait_version(&server, "3.6.0");
    let busy = "etcdserver: cluster has a downgrade job in progress";
    for action in [Validate, Enable] {
        assert_refused(ask(&client, action, "3.5").await, Code::FailedPrecondition, busy);
        assert_refused(ask(&client, action, "3.6").await, Code::InvalidArgument, invalid);
    }
    let status = client.status().await.unwrap();
    assert_eq!((status.version.as_str(), status.downgrade_info), ("3.7.1", Some(target)));

    // (The leader may have raised the version again before the answer is made.)
    ask(&client, Cancel, "nonsense").await.unwrap();
    assert_eq!(info().await, none);
    assert_eq!(enabled(), "false");
    wait_version(&server, "3.7.0");
}

#[tokio::test]
async fn a_downgrade_survives_a_restart() {
    let mut server = Server::start();
    wait_version(&server, "3.7.0");
    ask(&server.client(), DowngradeAction::Enable, "3.6").await.unwrap();
    wait_version(&server, "3.6.0");
    server.crash_and_restart();
    let status = server.client().status().await.unwrap();
    let target = DowngradeInfo { enabled: true, target_version: "3.6.0".into() };
    assert_eq!(status.downgrade_info, Some(target));
    wait_version(&server, "3.6.0");
}
