//! The `Host` check: which site a request is for must have exactly one reading (RFC 9112, section 3.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{header, request::Parts};
use lyss_core::{Error, ErrorKind, Result};

/// The names that are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// Every well-formed name.
    #[default]
    Any,
    /// Names of this machine only: a page from elsewhere must not reach a local gateway through a name that it makes
    /// resolve to 127.0.0.1 (DNS rebinding).
    Loopback,
    /// These names (`server.hosts`), without port, lower case.
    Listed(Vec<String>),
}

impl HostPolicy {
    fn allows(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match self {
            Self::Any => true,
            Self::Loopback => {
                let name = bare.trim_end_matches('.').to_ascii_lowercase();
                name == "localhost"
                    || name.ends_with(".localhost")
                    || bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
                    || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
            }
            Self::Listed(names) => names.iter().any(|name| name.eq_ignore_ascii_case(bare)),
        }
    }
}

/// Checks that a request names its host once, well-formed, and that the name is served here.
///
/// # Errors
/// `bad_host`.
pub fn check(parts: &Parts, policy: &HostPolicy) -> Result<()> {
    let mut sent = parts.headers.get_all(header::HOST).iter();
    let header = sent.next();
    if sent.next().is_some() {
        return Err(bad("the `Host` header was sent twice"));
    }
    let header = header
        .map(|value| {
            value
                .to_str()
                .map_err(|_| bad("the `Host` header is malformed"))
        })
        .transpose()?;
    // HTTP/2's `:authority`, or the absolute form of HTTP/1.
    let target = parts.uri.authority().map(|authority| authority.as_str());
    let name = match (header, target) {
        (Some(header), Some(target)) if !header.eq_ignore_ascii_case(target) => {
            return Err(bad("`Host` and the request target name different hosts"));
        }
        (Some(name), _) => name,
        (None, Some(name)) if parts.version >= http::Version::HTTP_2 => name,
        (None, _) => return Err(bad("the `Host` header is missing")),
    };
    let host = split_port(name).ok_or_else(|| bad("the `Host` header is malformed"))?;
    if !policy.allows(host) {
        return Err(bad(
            "this name is not served here; add it to `server.hosts`",
        ));
    }
    Ok(())
}

fn bad(message: &'static str) -> Error {
    Error::new(ErrorKind::BadHost, message)
}

/// The host of `host[:port]`; `None` unless both are well-formed.
fn split_port(name: &str) -> Option<&str> {
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (name, None),
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && (port.is_empty() || port.parse::<u16>().is_ok())
    });
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && !host.starts_with('.')
                && !host.contains("..")
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    (port_ok && host_ok).then_some(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::{Request, Version};

    use super::*;

    fn verdict(policy: &HostPolicy, version: Version, uri: &str, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header("host", *host);
        }
        check(&request.body(()).unwrap().into_parts().0, policy).is_ok()
    }

    #[test]
    fn one_well_formed_host() {
        let any = HostPolicy::Any;
        for good in [
            "a",
            "a.b",
            "a_b:80",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:80",
            "a.",
            "a:",
        ] {
            assert!(verdict(&any, Version::HTTP_11, "/", &[good]), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a/../x?y#",
            "a b",
            "u@a",
            "a:b",
            "a:99999",
            "[::1",
            "::1",
            "[x]",
            "a..b",
            ".a",
            "a,b",
            "a%2eb",
        ] {
            assert!(!verdict(&any, Version::HTTP_11, "/", &[bad]), "{bad}");
        }
        assert!(!verdict(&any, Version::HTTP_11, "/", &[]));
        assert!(!verdict(&any, Version::HTTP_10, "/", &[]));
        assert!(!verdict(&any, Version::HTTP_11, "/", &["a", "a"]));
    }

    #[test]
    fn the_target_agrees_with_the_header() {
        let any = HostPolicy::Any;
        assert!(verdict(&any, Version::HTTP_11, "http://a/x", &["A"]));
        assert!(!verdict(&any, Version::HTTP_11, "http://b/x", &["a"]));
        assert!(!verdict(&any, Version::HTTP_11, "http://a/x", &[]));
        assert!(verdict(&any, Version::HTTP_2, "https://a/x", &[]));
        assert!(!verdict(&any, Version::HTTP_2, "https://a/x", &["b"]));
        assert!(!verdict(&any, Version::HTTP_2, "https://u@a/x", &[]));
    }

    #[test]
    fn only_served_names() {
        let listed = HostPolicy::Listed(vec!["gw.example".into(), "::1".into()]);
        let local = HostPolicy::Loopback;
        for (policy, host, expected) in [
            (&listed, "GW.example:443", true),
            (&listed, "[::1]:443", true),
            (&listed, "example", false),
            (&local, "localhost:8000", true),
            (&local, "127.0.0.2", true),
            (&local, "[::1]:8000", true),
            (&local, "evil.example", false),
            (&local, "127.0.0.1.evil.example", false),
        ] {
            assert_eq!(
                verdict(policy, Version::HTTP_11, "/", &[host]),
                expected,
                "{host}"
            );
        }
    }
}
