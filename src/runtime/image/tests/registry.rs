//! Pulls from Debian's `docker-registry`, started on a loopback port with its data in a temporary directory.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::json;

use super::fixture::{Fixture, host_platform, index};
use super::tarball::{gzip, layer, zstd};
use crate::image::digest::Digest;
use crate::image::http::{Call, Http, Origin};
use crate::image::registries::Registries;
use crate::image::tls::TlsConfigs;
use crate::image::{Auth, ImageStore, PullOptions};

const REGISTRY: &str = "/usr/bin/docker-registry";
/// bcrypt of the password below.
const HTPASSWD: &str = "ali:$2b$05$BR.PhXJje2IQbDNEJHwRfOPCtizT0FYS0g5I0JkXbLcY9KfYt0OSa\n";
const PASSWORD: &str = "open sesame";

struct Registry {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
    auth: Option<Auth>,
    http: Http,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ours alone, by its id; a failure only means that it ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    async fn start(auth: Option<Auth>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            directory.path().display()
        );
        if auth.is_some() {
            fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n",
                directory.path().display()
            ));
        }
        let path = directory.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let process = Command::new(REGISTRY)
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .expect("docker-registry is installed");
        let http = Http::new(TlsConfigs::new(Arc::new(Registries::default())));
        let mut registry = Self { process, directory, port, auth, http };
        registry.wait().await;
        registry
    }

    /// Until it answers, or ends.
    async fn wait(&mut self) {
        for _ in 0..200 {
            if self.send(Method::GET, "/v2/".to_owned(), "", b"").await.is_some() {
                return;
            }
            assert!(
                self.process.try_wait().unwrap().is_none(),
                "{}",
                fs::read_to_string(self.directory.path().join("log")).unwrap()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the registry does not answer");
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        media_type: &str,
        body: &[u8],
    ) -> Option<(u16, Option<String>)> {
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_str(media_type).unwrap())];
        let origin = Origin { https: false, host: "127.0.0.1".to_owned(), port: self.port };
        let authorization = self.auth.as_ref().and_then(Auth::basic);
        let call = Call {
            method,
            origin,
            path,
            headers: &headers,
            authorization,
            body: Bytes::copy_from_slice(body),
        };
        let answer = self.http.send(call).await.ok()?;
        let location =
            answer.headers().get(header::LOCATION).map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status();
        answer.read_all(1 << 20).await.unwrap();
        Some((status, location))
    }

    async fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let (status, location) = self
            .send(Method::POST, format!("/v2/{repository}/blobs/uploads/"), "", b"")
            .await
            .unwrap();
        assert_eq!(status, 202);
        let (_, path) = Origin::parse_url(&location.unwrap()).unwrap();
        let path = format!("{path}&digest={}", Digest::of(bytes));
        assert_eq!(
            self.send(Method::PUT, path, "application/octet-stream", bytes).await.unwrap().0,
            201
        );
    }

    async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        assert_eq!(self.send(Method::PUT, path, media_type, bytes).await.unwrap().0, 201);
    }

    async fn push(&self, repository: &str, reference: &str, image: &Fixture) {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(repository, blob).await;
        }
        self.push_manifest(repository, reference, image.media_type, &image.manifest).await;
    }

    fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

fn credentials(password: &str) -> Option<Auth> {
    Some(Auth::Basic { username: "ali".to_owned(), password: password.to_owned() })
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

#[tokio::test]
async fn manifests_of_both_kinds_and_indexes_are_pulled() {
    let registry = Registry::start(None).await;
    let plain = [
        layer(&[("etc/passwd", "root:x:0:0::/root:/bin/sh")]),
        layer(&[("app", "v1"), ("etc/.wh.old", "")]),
    ];
    let (oci, docker) = (Fixture::new(&plain, zstd), Fixture::docker(&plain, gzip));
    registry.push("team/app", "oci", &oci).await;
    registry.push("team/app", "docker", &docker).await;
    let foreign = Fixture::new(&[layer(&[("app", "foreign")])], gzip);
    registry.push("team/app", &foreign.digest().to_string(), &foreign).await;
    let many = index(&[
        foreign.entry(Some(json!({"os": "linux", "architecture": "s390x"})), None),
        oci.entry(Some(host_platform()), None),
    ]);
    registry.push_manifest("team/app", "many", crate::image::manifest::OCI_INDEX, &many).await;

    let (_directory, store) = store();
    for (tag, digest) in
        [("oci", oci.digest()), ("docker", docker.digest()), ("many", Digest::of(&many))]
    {
        let name = registry.image(&format!("team/app:{tag}"));
        let pulled = store.pull(&name, PullOptions::default()).await.unwrap();
        assert_eq!(fs::read_to_string(pulled.layers[0].join("app")).unwrap(), "v1", "{tag}");
        assert!(
            pulled.digests.contains(&registry.image(&format!("team/app@{digest}"))),
            "{tag}: {:?}",
            pulled.digests
        );
        assert!(pulled.references.contains(&name));
        let by_digest = store
            .pull(&registry.image(&format!("team/app@{digest}")), PullOptions::default())
            .await
            .unwrap();
        assert_eq!(by_digest.id, pulled.id);
    }
    // One configuration, thus one image, with all its names; its layers were unpacked once.
    assert_eq!((store.list().len(), store.list()[0].references.len()), (1, 3));
    let error =
        store.pull(&registry.image("team/app:none"), PullOptions::default()).await.unwrap_err();
    let name = registry.image("team/app:none");
    let expected = format!(
        "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
    );
    assert_eq!((error.to_string(), error.is_not_found()), (expected, true));
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let registry = Registry::start(credentials(PASSWORD)).await;
    let image = Fixture::new(&[layer(&[("a", "1")])], gzip);
    registry.push("private", "1", &image).await;
    let name = registry.image("private:1");
    let (_directory, store) = store();
    let wrong = PullOptions { auth: credentials("wrong"), ..PullOptions::default() };
    for options in [PullOptions::default(), wrong] {
        let error = store.pull(&name, options).await.unwrap_err().to_string();
        assert!(
            error.contains(
                "pull access denied, repository does not exist or may require authorization"
            ),
            "{error}"
        );
        assert!(!error.contains("wrong"), "{error}");
    }
    let given = PullOptions { auth: credentials(PASSWORD), ..PullOptions::default() };
    assert_eq!(store.pull(&name, given).await.unwrap().id, image.id());
    store.remove(&image.id()).await.unwrap();
    let text = format!(
        "configs: {{\"127.0.0.1:{}\": {{auth: {{username: ali, password: {PASSWORD}}}}}}}",
        registry.port
    );
    let configured = PullOptions {
        registries: Arc::new(Registries::parse(&text).unwrap()),
        ..PullOptions::default()
    };
    assert_eq!(store.pull(&name, configured).await.unwrap().id, image.id());
}
