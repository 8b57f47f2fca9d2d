//! The host's end of the emulated boards' port: asks PID 1 for the kubeconfig or for the end of the machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A kubeconfig is a few kilobytes.
const KUBECONFIG_MAX: usize = 256 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct HostPort {
    stream: BufReader<UnixStream>,
}

impl HostPort {
    pub(crate) fn connect(path: &Path) -> Result<HostPort> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(HostPort { stream: BufReader::new(stream) })
    }

    /// The kubeconfig, once the node has written it.
    pub(crate) fn kubeconfig(&mut self) -> Result<Option<String>> {
        let answer = self.ask("kubeconfig")?;
        let length = answer.strip_prefix("kubeconfig ").and_then(|length| length.parse().ok());
        let length: usize = length.with_context(|| format!("the board answered {answer:?}"))?;
        ensure!(length <= KUBECONFIG_MAX, "a kubeconfig of {length} bytes");
        let mut content = vec![0; length];
        self.stream.read_exact(&mut content).context("read the kubeconfig")?;
        Ok((length > 0).then(|| String::from_utf8_lossy(&content).into_owned()))
    }

    /// `poweroff` or `restart`.
    pub(crate) fn end(&mut self, how: &str) -> Result<()> {
        let answer = self.ask(how)?;
        ensure!(answer == "ok", "the board answered {answer:?} to {how}");
        Ok(())
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{request}\n").as_bytes()).context("ask the board")?;
        let mut answer = String::new();
        self.stream
            .by_ref()
            .take(256)
            .read_line(&mut answer)
            .context("the board does not answer")?;
        Ok(answer.trim_end().to_owned())
    }
}

/// The kubeconfig with the address that reaches the board from here.
pub(crate) fn for_host(kubeconfig: &str, port: u16) -> String {
    let lines = kubeconfig.lines().map(|line| match line.split_once("server:") {
        Some((indent, _)) if indent.trim().is_empty() => {
            format!("{indent}server: https://127.0.0.1:{port}\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_line_is_replaced() {
        let text = "clusters:\n- cluster:\n    server: https://10.0.2.15:6443\n  name: server\n";
        let expected =
            "clusters:\n- cluster:\n    server: https://127.0.0.1:7000\n  name: server\n";
        assert_eq!(for_host(text, 7000), expected);
    }
}
