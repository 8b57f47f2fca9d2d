//! Broken requests: bodies, paths and queries of the case files with bytes changed, cut and doubled. No answer may be an
//! internal error, and the server must go on.

use super::support::{admin, ask, request, server};
use std::path::Path;

const ROUNDS: usize = 60;

/// xorshift: the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).expect("below the limit")
    }

    fn mangle(&mut self, text: &str) -> String {
        const PIECES: &[&str] = &[
            "\"", "{", "}", "[", "]", "null", "-1", "1e999", "\\u0000", "é", "[]", "{}", "/", "%",
            ",",
        ];
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => {
                    bytes.remove(at);
                }
                2 => {
                    let end = (at + self.below(20)).min(bytes.len());
                    let copied = bytes[at..end].to_vec();
                    bytes.splice(at..at, copied);
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[tokio::test]
async fn broken_requests_are_the_clients_fault() {
    let server = server().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    ask(&server, "POST", accounts, r#"{"metadata":{"name":"default"}}"#).await;
    let mut random = Random(0x5eed_c0de_1234_5678);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("cases").map(|e| e.expect("entry").path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("case file");
        for block in text.split("\n\n") {
            let mut lines = block.trim().lines().filter(|l| !l.starts_with('#'));
            let Some((method, path)) = lines.next().and_then(|l| l.split_once(' ')) else {
                continue;
            };
            let body = lines.find(|l| l.starts_with(['{', '['])).unwrap_or_default();
            for _ in 0..ROUNDS {
                let (path, body) = match random.below(3) {
                    0 => (random.mangle(path), body.to_owned()),
                    _ => (path.to_owned(), random.mangle(body)),
                };
                // A default account of another namespace would be waited for.
                if path.parse::<http::Uri>().is_err()
                    || path.contains("watch")
                    || !path.starts_with('/')
                {
                    continue;
                }
                let mut sent = request(method, &path, &body);
                if random.below(4) == 0 && method == "PATCH" {
                    let kind =
                        ["application/json-patch+json", "application/strategic-merge-patch+json"]
                            [random.below(2)];
                    sent.headers_mut().insert("content-type", kind.parse().expect("header"));
                }
                let code = server.handle(admin(), sent).await.status();
                let dialing = ["/log", "/exec", "/proxy"].iter().any(|word| path.contains(word));
                assert!(
                    !code.is_server_error() || code == 504 || dialing,
                    "{code} for {method} {path}\n{body}"
                );
            }
        }
    }
    assert_eq!(ask(&server, "GET", "/readyz", "").await.0, 200);
}
