//! Where a connection may lead whose URL came through the admin API (SSRF, CWE-918).
//!
//! The address is looked at where the connection is made, after the name is resolved: what a name pointed to before,
//! and how an address is written, does not matter then.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec::IntoIter,
};

use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;

use super::BoxError;
use crate::config::{Destination, EgressConfig};

/// What may be connected to: public addresses over TLS, and the destinations that the operator has listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress(Arc<Vec<Destination>>);

impl Egress {
    /// The rules of a configuration.
    pub fn new(config: &EgressConfig) -> Self {
        Self(Arc::new(config.allow.clone()))
    }

    /// Checks what of a URL can be checked without resolving its name.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check_url(&self, url: &Uri) -> Result<(), String> {
        let host = url.host().unwrap_or_default();
        if let Some(address) = literal(host).filter(|address| is_closed(*address)) {
            return Err(closed(address));
        }
        if url.scheme_str() != Some("https") && !self.lists(host) {
            return Err(
                "must begin with https://; list the host in `routing.egress.allow` to allow http://"
                    .into(),
            );
        }
        match literal(host) {
            Some(address) => self.check(host, address),
            None => Ok(()),
        }
    }

    /// Whether a host of a URL is listed, by its name or as an address.
    fn lists(&self, host: &str) -> bool {
        match literal(host) {
            Some(address) => self.lists_address(address),
            None => self.lists_name(host),
        }
    }

    fn lists_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.0.iter().any(
            |allowed| matches!(allowed, Destination::Host(host) if host.eq_ignore_ascii_case(name)),
        )
    }

    fn lists_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(
            |allowed| matches!(allowed, Destination::Network(network) if network.contains(&address)),
        )
    }

    /// Checks an address that a host has.
    fn check(&self, host: &str, address: IpAddr) -> Result<(), String> {
        if is_closed(address) {
            return Err(closed(address));
        }
        if is_public(address) || self.lists_address(address) || self.lists_name(host) {
            return Ok(());
        }
        Err(format!(
            "leads to {address}, which is not a public address; list it in `routing.egress.allow` if this is meant"
        ))
    }
}

fn closed(address: IpAddr) -> String {
    format!(
        "leads to {address}, which is link-local or a cloud's metadata service: nothing is connected to there"
    )
}

/// The address that the host of a URL is, if it is one.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok()
}

/// Whether an address is link-local or a cloud's metadata service, whose answers are credentials: closed even where it
/// is listed.
///
/// # Source
/// RFC 3927 and 4291; the metadata services of Alibaba Cloud (100.100.100.200) and of AWS over IPv6 (fd00:ec2::254).
pub(crate) fn is_closed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_closed_v4(address),
        IpAddr::V6(address) => {
            within(address).is_some_and(is_closed_v4)
                || address.is_unicast_link_local()
                || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

fn is_closed_v4(address: Ipv4Addr) -> bool {
    address.is_link_local() || address == Ipv4Addr::new(100, 100, 100, 200)
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated by NAT64, and 6to4.
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0x2002, ..] => v4(b, c),
        _ => None,
    }
}

/// Whether an address belongs to the public internet: not to this machine, its network, a cloud's metadata service, or
/// a range that no server has.
///
/// # Source
/// IANA's special-purpose address registries for IPv4 and IPv6; RFC 6052, 3056 and 4291 for IPv4 within IPv6. The wire
/// server of Azure lies at a public address (168.63.129.16).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)
        || address == Ipv4Addr::new(168, 63, 129, 16);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(address) = within(address) {
        return is_public_v4(address);
    }
    match address.segments() {
        // Teredo, benchmarks, ORCHID, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only this eighth is given out for servers; local, unique-local and multicast addresses lie outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Resolves names as the system does, and refuses those that lead where a connection may not.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    egress: Option<Egress>,
}

impl Resolver {
    /// Without rules every address is allowed.
    pub fn new(egress: Option<Egress>) -> Self {
        Self {
            system: GaiResolver::new(),
            egress,
        }
    }
}

impl Service<Name> for Resolver {
    type Response = IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.system.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, egress) = (self.system.call(name.clone()), self.egress.clone());
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = resolving.await?.collect();
            if let Some(egress) = egress {
                // One that is not allowed is enough: a name with both kinds tries something.
                for address in &addresses {
                    egress.check(name.as_str(), address.ip()).map_err(Refused)?;
                }
            }
            Ok(addresses.into_iter())
        })
    }
}

/// Whether a connection was not made because of where it would have led.
pub(super) fn is_refused(mut error: &(dyn std::error::Error + 'static)) -> bool {
    loop {
        if error.is::<Refused>() {
            return true;
        }
        match error.source() {
            Some(cause) => error = cause,
            None => return false,
        }
    }
}

/// A connection that is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not connected: it {}", self.0)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
