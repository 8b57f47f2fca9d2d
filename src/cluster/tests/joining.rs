//! Both halves against each other over TLS on loopback.

use std::net::IpAddr;

use pki::Facts;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stage::{Stage, TOKEN, echo, reached, shared, until};
use crate::server::secret_name;
use crate::{Joined, Refusal, join};

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

/// A member that runs.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    addresses: watch::Sender<Vec<IpAddr>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(joined: Joined) -> Running {
        let (stop, stopped) = watch::channel(false);
        let (addresses, told) = watch::channel(Vec::new());
        let task = tokio::spawn(joined.run(echo(), told, stopped));
        Running { stop, addresses, task }
    }

    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("the member ends");
    }
}

fn certificate(folder: &tempfile::TempDir, name: &str) -> Facts {
    let pem = std::fs::read_to_string(folder.path().join(name)).expect("certificate");
    Facts::of_pem(&pem).expect("certificate")
}

async fn refusal(config: crate::JoinConfig) -> Refusal {
    match join(config).await {
        Ok(_) => panic!("must be refused"),
        Err(refusal) => refusal,
    }
}

#[tokio::test]
async fn a_node_joins_is_reached_and_comes_back_without_its_server() {
    let stage = Stage::start(pki::LEAF_SECONDS).await;
    let data = folder();
    let joined = join(stage.join_config(&data, "board")).await.expect("joined");
    assert_eq!(joined.shared, shared());
    let client = certificate(&data, "client-kubelet.crt");
    assert_eq!(client.common_name, "system:node:board");
    assert_eq!(client.organizations, ["system:nodes"]);
    assert!(client.issued_by(stage.pki.client_authority.certificate_pem()));
    let serving = certificate(&data, "serving-kubelet.crt");
    assert_eq!(serving.names, ["10.9.8.7", "127.0.0.1", "board", "localhost"]);
    let secrets: Vec<String> = stage.api.objects.lock().expect("objects").keys().cloned().collect();
    assert!(secrets[0].ends_with(&secret_name("board")), "{secrets:?}");

    let running = Running::start(joined);
    let supervisor = stage.supervisor.clone();
    until("the tunnel is up", async || reached(&supervisor, "board").await).await;
    assert_eq!(stage.supervisor.connected(), ["board"]);
    let unknown = stage.supervisor.dial("other").await.err().expect("unknown node");
    assert_eq!(unknown.kind(), std::io::ErrorKind::NotConnected);
    running.stop().await;
    until("the tunnel is down", async || supervisor.connected().is_empty()).await;

    // Without token and server, from what was kept.
    let mut config = stage.join_config(&data, "board");
    config.token = None;
    let away = stage.stop().await;
    let joined = join(config).await.expect("member without its server");
    assert_eq!(joined.shared, shared());
    let running = Running::start(joined);
    let stage = Stage::again(away).await;
    let supervisor = stage.supervisor.clone();
    until("the tunnel is up again", async || reached(&supervisor, "board").await).await;
    running.stop().await;
}

#[tokio::test]
async fn refusals_name_their_cause() {
    let stage = Stage::start(pki::LEAF_SECONDS).await;
    let base = || stage.join_config(&folder(), "board");

    let mut config = base();
    config.token = Some(stage.token().replace("for-agents", "guessed"));
    assert!(matches!(refusal(config).await, Refusal::WrongToken { .. }));

    let mut config = base();
    config.token = Some(format!("K10{}::node:x", "0".repeat(64)));
    assert!(matches!(refusal(config).await, Refusal::WrongAuthority { .. }));

    let mut config = base();
    config.token = None;
    assert!(matches!(refusal(config).await, Refusal::NoToken));

    let mut config = base();
    config.server = "http://127.0.0.1".into();
    assert!(refusal(config).await.to_string().contains("expected https://HOST[:PORT]"));

    let mut config = base();
    config.token = Some(pki::BootstrapToken::random().expect("token").to_string());
    assert!(matches!(refusal(config).await, Refusal::WrongToken { .. }));

    // The server's own token lets nodes join as well.
    let authority = stage.pki.server_authority.certificate_pem();
    let mut config = stage.join_config(&folder(), "first");
    config.token = Some(pki::JoinToken::new(authority, "server", TOKEN).to_string());
    join(config).await.expect("joined");

    // Another machine wants the name.
    let taken = refusal(stage.join_config(&folder(), "first")).await.to_string();
    assert!(taken.contains("the name \"first\" belongs to another node"), "{taken}");
    assert!(taken.contains("kubectl delete node first"), "{taken}");

    // A node must not take the server's name.
    let posing = refusal(stage.join_config(&folder(), "kubernetes")).await.to_string();
    assert!(posing.contains("is a name or address of the server itself"), "{posing}");
}

#[tokio::test]
async fn members_stay_with_their_cluster_and_may_change_their_name() {
    let (one, two) = (Stage::start(pki::LEAF_SECONDS).await, Stage::start(pki::LEAF_SECONDS).await);
    let data = folder();
    join(one.join_config(&data, "board")).await.expect("joined");
    let other = refusal(two.join_config(&data, "board")).await;
    assert!(matches!(other, Refusal::OtherCluster { .. }), "{other}");
    join(one.join_config(&data, "renamed")).await.expect("joined under another name");
    assert_eq!(certificate(&data, "client-kubelet.crt").common_name, "system:node:renamed");
}

#[tokio::test]
async fn a_bootstrap_token_lets_a_node_join() {
    let stage = Stage::start(pki::LEAF_SECONDS).await;
    let client = client::Client::new(std::sync::Arc::new(stage.api.clone()));
    let new = crate::NewBootstrapToken::default();
    let token = crate::create_token(&client, &new).await.expect("token");
    let authority = stage.pki.server_authority.certificate_pem();
    let config = |name: &str| {
        let mut config = stage.join_config(&folder(), name);
        config.token = Some(pki::JoinToken::bootstrap(authority, token.clone()).to_string());
        config
    };
    join(config("one")).await.expect("joined");
    crate::delete_token(&client, &token.to_string()).await.expect("deleted");
    assert!(matches!(refusal(config("two")).await, Refusal::WrongToken { .. }));
}

#[tokio::test]
async fn certificates_are_renewed_and_follow_the_addresses() {
    // Renewed after two seconds at the latest.
    let stage = Stage::start(3).await;
    let data = folder();
    let joined = join(stage.join_config(&data, "board")).await.expect("joined");
    let first = certificate(&data, "client-kubelet.crt");
    let running = Running::start(joined);
    until("the certificate was renewed twice", async || {
        certificate(&data, "client-kubelet.crt").not_after >= first.not_after + 4
    })
    .await;
    assert_eq!(certificate(&data, "client-kubelet.crt").public_key, first.public_key);
    running.addresses.send_replace(vec![[10, 1, 1, 1].into()]);
    until("the certificate names the new address", async || {
        certificate(&data, "serving-kubelet.crt").names.contains(&"10.1.1.1".to_owned())
    })
    .await;
    let supervisor = stage.supervisor.clone();
    until("the tunnel is up", async || reached(&supervisor, "board").await).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_whose_certificate_ran_out_comes_back_by_its_key() {
    let stage = Stage::start(1).await;
    let data = folder();
    join(stage.join_config(&data, "board")).await.expect("joined");
    let end = certificate(&data, "client-kubelet.crt").not_after;
    until("the certificate has expired", async || crate::clock::now() > end).await;
    let mut config = stage.join_config(&data, "board");
    config.token = None;
    let lasting = Stage::again(stage.stop().await).await;
    let running = Running::start(join(config.clone()).await.expect("member"));
    let supervisor = lasting.supervisor.clone();
    until("the tunnel is up", async || reached(&supervisor, "board").await).await;
    assert!(certificate(&data, "client-kubelet.crt").not_after > end + 1000);
    running.stop().await;
}
