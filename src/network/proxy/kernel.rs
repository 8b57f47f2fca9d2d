//! Brings the kernel to where the engine is.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::conntrack;
use super::engine::Engine;
use super::transaction::{Step, encode};
use super::values::Datagrams;
use crate::masquerade::is_missing;
use crate::nft::{Family, Socket};

/// What an update cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the transaction.
    pub bytes: usize,
    /// Things the kernel was asked to do.
    pub steps: usize,
    /// Flows of UDP that were forgotten.
    pub flows: usize,
}

/// What is to be sent.
pub(crate) struct Update {
    steps: Vec<Step>,
    datagrams: Datagrams,
    node_ips: BTreeSet<IpAddr>,
}

/// Why the kernel's rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel has no nftables with address translation: {0}")]
    Missing(io::Error),
    #[error("the kernel refused to {step}: {source}")]
    Refused { step: String, source: io::Error },
    #[error("failed to send a transaction of {bytes} bytes to nftables: {source}")]
    Sending { bytes: usize, source: io::Error },
}

/// The kernel's side.
pub(crate) struct Kernel {
    socket: Socket,
    family: Family,
    /// Whether the table is known to be what was last planned.
    current: bool,
    /// Whether the table was ever written.
    written: bool,
}

impl Kernel {
    /// Opens the socket in the network namespace of the calling thread.
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        Ok(Self { socket: Socket::open()?, family, current: false, written: false })
    }

    /// Plans and applies, in one transaction. After a failure the next one writes everything again.
    pub(crate) fn update(&mut self, engine: &mut Engine) -> Result<Sent, Error> {
        let update = self.prepare(engine);
        self.apply(update)
    }

    /// Plans the transaction. What it does not reach the kernel with is planned again by the next.
    pub(crate) fn prepare(&mut self, engine: &mut Engine) -> Update {
        let mut change = engine.plan();
        let mut datagrams = std::mem::take(&mut change.datagrams);
        let steps = if std::mem::take(&mut self.current) {
            change.steps()
        } else {
            datagrams = engine.datagrams();
            engine.everything()
        };
        Update { steps, datagrams, node_ips: engine.node().addresses.clone() }
    }

    pub(crate) fn apply(&mut self, update: Update) -> Result<Sent, Error> {
        let Update { steps, datagrams, node_ips } = update;
        let bytes = if steps.is_empty() { 0 } else { self.commit(&steps)? };
        self.current = true;
        self.written = true;
        let flows = self.forget(&datagrams, &node_ips);
        Ok(Sent { bytes, steps: steps.len(), flows })
    }

    fn commit(&self, steps: &[Step]) -> Result<usize, Error> {
        let (batch, firsts) = encode(steps, self.family);
        let encoded = batch.finish();
        let bytes = encoded.bytes.len();
        let Err(refused) = self.socket.commit(&encoded) else { return Ok(bytes) };
        let source = refused.source;
        if !self.written && is_missing(&source) {
            return Err(Error::Missing(source));
        }
        let step = refused.sequence.and_then(|sequence| {
            let after = firsts.partition_point(|first| *first <= sequence);
            steps.get(after.checked_sub(1)?)
        });
        Err(match step {
            Some(step) => Error::Refused { step: format!("{step:?}"), source },
            None => Error::Sending { bytes, source },
        })
    }

    /// A kernel that cannot list flows forgets them by their timeout.
    fn forget(&self, fronts: &Datagrams, node_ips: &BTreeSet<IpAddr>) -> usize {
        if fronts.is_empty() {
            return 0;
        }
        match conntrack::clean(&self.socket, self.family, fronts, node_ips) {
            Ok(flows) => flows,
            Err(error) => {
                tracing::warn!(%error, "failed to forget stale UDP flows");
                0
            }
        }
    }
}
