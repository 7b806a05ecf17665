//! `routing.egress`: where providers that come through the admin API may lead, besides the public internet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::{Reader, Section};
use crate::provider::transport::is_closed;

/// `routing.egress`. It holds for URLs that come through the admin API; those of the configuration are the operator's
/// own, and go wherever they say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressConfig {
    /// Destinations allowed though they are not public. The host of a URL that is listed itself, by its name or as an
    /// address, needs no TLS either.
    pub allow: Vec<Destination>,
}

/// An item of `routing.egress.allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Every address of a network, also one that a name resolves to.
    Network(IpNet),
    /// A host name, wherever it resolves to; in lower case.
    Host(String),
}

impl Destination {
    /// Whether nothing of it can be connected to, listed or not: the whole network is link-local or a metadata service.
    pub(super) fn is_closed(&self) -> bool {
        // With the first address and the last one, so is all between: the closed ones are blocks and single addresses.
        matches!(self, Self::Network(network)
            if is_closed(network.network()) && is_closed(network.broadcast()))
    }

    /// Reads an address, a network in CIDR notation, or a host name.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A name of digits only is an address that somebody has mistyped.
        let named = text.bytes().any(|b| b.is_ascii_alphabetic());
        if named && text.len() <= 253 && text.split('.').all(label) {
            return Ok(Self::Host(text.to_ascii_lowercase()));
        }
        Err("is neither an address, nor a network, nor a host name".to_owned())
    }
}

impl Section for EgressConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.items(
            "allow",
            "an address, a network such as 10.0.0.0/8, or a host name",
            Destination::parse,
            &mut self.allow,
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_addresses_and_names() {
        let network = |text: &str| Destination::Network(text.parse().unwrap());
        for (text, is) in [
            ("10.1.2.3/8", network("10.0.0.0/8")),
            ("127.0.0.1", network("127.0.0.1/32")),
            ("fd00::/8", network("fd00::/8")),
            ("::1", network("::1/128")),
            ("LLM.internal", Destination::Host("llm.internal".into())),
        ] {
            assert_eq!(Destination::parse(text).unwrap(), is, "{text}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "*",
            "https://x",
            "a..b",
            "x:80",
            "0177.0.0.1",
        ] {
            assert!(Destination::parse(bad).is_err(), "{bad}");
        }
    }
}
