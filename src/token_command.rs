//! `copepod token`: makes, lists and removes the tokens with which nodes join, through the server's own API.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::{Client, Identity, TlsTransport};
use cluster::{BootstrapRecord, NewBootstrapToken};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::cli::{Access, TokenCommand};

/// Bytes of random numbers in a token that is made up.
const PASSWORD_BYTES: usize = 16;
/// The part of an answer that is shown when it is no Status.
const ANSWER_SHOWN: usize = 512;

pub(crate) fn run(command: TokenCommand) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(perform(command))
}

async fn perform(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Generate => println!("{}", pki::BootstrapToken::random()?),
        TokenCommand::Create { access, token, description, groups, ttl, usages } => {
            let (client, authority) = connect(&access.kubeconfig)?;
            let ttl = duration(&ttl).with_context(|| format!("--ttl {ttl:?}"))?;
            let ttl = (!ttl.is_zero()).then_some(ttl);
            let new = NewBootstrapToken { token, description, ttl, usages, groups };
            let token = cluster::create_token(&client, &new).await?;
            println!("{}", pki::JoinToken::bootstrap(&authority, token));
        }
        TokenCommand::Delete { access, tokens } => {
            let (client, _) = connect(&access.kubeconfig)?;
            for token in tokens {
                let id = cluster::delete_token(&client, &token).await?;
                println!("bootstrap token {id:?} deleted");
            }
        }
        TokenCommand::List { access, output } => {
            let (client, _) = connect(&access.kubeconfig)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let tokens = cluster::list_tokens(&client).await?;
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            print!("{}", render(&tokens, &output, now)?);
        }
        TokenCommand::Rotate { access, new_token } => rotate(&access, new_token).await?,
    }
    Ok(())
}

async fn rotate(access: &Access, new_token: Option<String>) -> Result<()> {
    let (client, authority) = connect(&access.kubeconfig)?;
    let new_token = match new_token {
        Some(token) => token,
        None => pki::random_hex(PASSWORD_BYTES)?,
    };
    let body = json!({ "newToken": new_token }).to_string();
    let request = http::Request::put(cluster::TOKEN_PATH).body(Bytes::from(body))?;
    let answer = client.raw(request).await?;
    let code = answer.status();
    if !code.is_success() {
        let body = answer.into_body().collect().await.map_err(|e| anyhow!(e))?.to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(ANSWER_SHOWN)]).into_owned();
        bail!("the server answered {code}: {}", status["message"].as_str().unwrap_or(&text));
    }
    let token = pki::JoinToken::parse(&new_token)?;
    let password = token.password().unwrap_or_default();
    println!("{}", pki::JoinToken::new(&authority, "server", password));
    Ok(())
}

/// A client by an administrator's kubeconfig, and the cluster's authority in it.
pub(crate) fn connect(kubeconfig: &Path) -> Result<(Client, String)> {
    let shown = kubeconfig.display();
    let text = std::fs::read_to_string(kubeconfig)
        .with_context(|| format!("--kubeconfig {shown}: is this the server?"))?;
    let config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("--kubeconfig {shown}"))?;
    let cluster = &config["clusters"][0]["cluster"];
    let user = &config["users"][0]["user"];
    let data = |value: &Value, key: &str| {
        value[key]
            .as_str()
            .and_then(pki::decode_base64)
            .ok_or_else(|| anyhow!("--kubeconfig {shown}: {key} is missing or no base64"))
    };
    let server = cluster["server"]
        .as_str()
        .ok_or_else(|| anyhow!("--kubeconfig {shown}: the cluster has no server"))?;
    let authority = data(cluster, "certificate-authority-data")?;
    let identity = Identity::Certificate {
        chain_pem: data(user, "client-certificate-data")?,
        key_pem: data(user, "client-key-data")?,
    };
    let transport = TlsTransport::new(server, &authority, identity)?;
    Ok((Client::new(Arc::new(transport)), String::from_utf8(authority)?))
}

/// Reads a duration as Go writes it, such as `1h30m`.
fn duration(text: &str) -> Result<Duration> {
    let wrong = || anyhow!("expected a duration such as 1s, 2m or 3h");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// The list in one of its forms.
fn render(tokens: &[BootstrapRecord], output: &str, now: i64) -> Result<String> {
    match output {
        "text" => Ok(table(tokens, now)),
        "json" => {
            let list: Vec<Value> = tokens.iter().map(object).collect();
            Ok(format!("{}\n", Value::Array(list)))
        }
        "yaml" => Ok(tokens.iter().map(yaml).collect()),
        other => bail!("--output: expected text, json or yaml, not {other:?}"),
    }
}

fn object(token: &BootstrapRecord) -> Value {
    let mut object = json!({ "token": token.token() });
    if !token.description.is_empty() {
        object["description"] = json!(token.description);
    }
    if let Some(expires) = &token.expires {
        object["expires"] = json!(expires);
    }
    if !token.usages.is_empty() {
        object["usages"] = json!(token.usages);
    }
    if !token.groups.is_empty() {
        object["groups"] = json!(token.groups);
    }
    object
}

/// JSON is YAML, one token to a line.
fn yaml(token: &BootstrapRecord) -> String {
    format!("- {}\n", object(token))
}

/// Columns as wide as their widest cell and three more, ten at least.
fn table(tokens: &[BootstrapRecord], now: i64) -> String {
    const PADDING: usize = 3;
    const WIDTH_MIN: usize = 10;
    let head = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(tokens.iter().map(|token| {
        let left = token.seconds_left(now);
        [
            token.id.clone(),
            left.map_or_else(|| "<forever>".to_owned(), short_duration),
            token.expires.clone().unwrap_or_else(|| "<never>".to_owned()),
            or_none(token.usages.join(",")),
            or_none(token.description.clone()),
            or_none(token.groups.join(",")),
        ]
    }));
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (widest + PADDING).max(WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths).take(head.len() - 1) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(&row[head.len() - 1]);
        text.push('\n');
    }
    text
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// Seconds in the largest unit that fits, as kubectl shows ages.
fn short_duration(seconds: i64) -> String {
    const UNITS: [(i64, char); 4] = [(365 * 86400, 'y'), (86400, 'd'), (3600, 'h'), (60, 'm')];
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        _ => match UNITS.iter().find(|(unit, _)| seconds >= *unit) {
            Some((unit, name)) => format!("{}{name}", seconds / unit),
            None => format!("{seconds}s"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("0", 0), ("90s", 90), ("24h", 86400), ("1h30m", 5400), ("2m1s", 121)]
        {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for wrong in ["", "1", "h", "1d", "-1h", "1h-", "99999999999999999999h", "1 h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_left() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (59, "59s"),
            (61, "1m"),
            (86399, "23h"),
            (86400, "1d"),
            (400 * 86400, "1y"),
        ] {
            assert_eq!(short_duration(seconds), text);
        }
    }

    #[test]
    fn a_list_without_tokens_has_its_head() {
        let head = "TOKEN     TTL       EXPIRES   USAGES    DESCRIPTION   EXTRA GROUPS\n";
        assert_eq!(render(&[], "text", 0).unwrap(), head);
        assert_eq!(render(&[], "json", 0).unwrap(), "[]\n");
        assert!(render(&[], "xml", 0).unwrap_err().to_string().starts_with("--output"));
    }
}
