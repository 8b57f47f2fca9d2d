//! The server half: answers the paths below `/v1-copepod/` and keeps the tunnels.

mod caller;
mod certificates;
mod node_password;
mod rights;
mod sessions;
mod supervisor;
mod tokens;
mod upkeep;

pub(crate) use caller::Caller;
pub(crate) use rights::Endpoint;
pub use supervisor::{Supervisor, SupervisorConfig};
#[cfg(test)]
pub(crate) use tokens::Holder;
pub use tokens::Tokens;
pub use upkeep::upkeep;

#[cfg(test)]
pub(crate) use caller::by_certificate;
#[cfg(test)]
pub(crate) use node_password::secret_name;
#[cfg(test)]
pub(crate) use rights::{Denial, allowed};

/// The claim in these headers.
#[cfg(test)]
pub(crate) fn claim_of(headers: &[(&'static str, &str)]) -> Result<certificates::Claim, String> {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            let value = http::HeaderValue::from_str(value).expect("value");
            (http::HeaderName::from_static(name), value)
        })
        .collect();
    certificates::Claim::of(&headers)
}
