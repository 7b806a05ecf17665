#![allow(clippy::unwrap_used, clippy::panic)]
use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::{
    provider::transport::{HttpTransport, HyperTransport, TransportConfig},
    types::Segments,
};

fn egress(allow: &[&str]) -> Egress {
    let list = allow
        .iter()
        .map(|text| format!("\"{text}\""))
        .collect::<Vec<_>>();
    let text = format!("routing: {{ egress: {{ allow: [{}] }} }}", list.join(", "));
    let loaded = crate::config::Config::parse("e.yaml", &text, &Default::default()).unwrap();
    Egress::new(&loaded.config.routing.egress)
}

#[test]
fn only_the_public_internet_is_public() {
    for address in [
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "2001:4860:4860::8888",
    ] {
        assert!(is_public(address.parse().unwrap()), "{address}");
    }
    for address in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "2001::1",
        "2001:db8::1",
        "100::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn urls_are_checked_before_anything_is_resolved() {
    let check = |egress: &Egress, url: &str| egress.check_url(&url.parse().unwrap());
    let closed = egress(&[]);
    for url in [
        "http://api.example.com",
        "https://127.0.0.1",
        "https://[::1]:8443/v1",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://169.254.169.254",
        "https://10.0.0.7",
    ] {
        assert!(check(&closed, url).is_err(), "{url}");
    }
    assert!(check(&closed, "https://api.example.com/v1").is_ok());
    assert!(check(&closed, "https://8.8.8.8").is_ok());
    let open = egress(&["10.0.0.0/8", "llm.internal"]);
    for url in [
        "http://10.0.0.7:8000",
        "http://LLM.internal./v1",
        "https://[::ffff:10.0.0.7]",
    ] {
        assert!(check(&open, url).is_ok(), "{url}");
    }
    for url in [
        "http://11.0.0.7",
        "http://llm.internal.evil.com",
        "https://192.168.0.1",
    ] {
        assert!(check(&open, url).is_err(), "{url}");
    }
}

/// Not even where everything is listed; and nobody is told to list them.
#[test]
fn link_local_and_metadata_addresses_are_never_connected_to() {
    let open = egress(&[
        "0.0.0.0/0",
        "::/0",
        "169.254.169.254",
        "fe80::/10",
        "metadata",
    ]);
    for host in [
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "[fe80::1]",
        "[febf::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}/latest").parse().unwrap();
            for egress in [&open, &egress(&[])] {
                let refused = egress.check_url(&url).unwrap_err();
                assert!(!refused.contains("routing.egress.allow"), "{refused}");
            }
        }
        // A name that is listed and leads there.
        let refused = open.check("metadata", literal(host).unwrap()).unwrap_err();
        assert!(!refused.contains("routing.egress.allow"), "{refused}");
    }
    for host in ["10.0.0.1", "100.100.100.201", "[fd00:ec2::253]"] {
        let url = format!("http://{host}").parse().unwrap();
        assert!(open.check_url(&url).is_ok(), "{host}");
    }
}

/// Whether a call through the transport reaches a listener on 127.0.0.1, and what is said if not.
async fn reaches(scheme: &str, host: &str, allow: &[&str]) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = TransportConfig {
        egress: Some(egress(allow)),
        ..TransportConfig::default()
    };
    let transport = HyperTransport::new(&config).unwrap();
    let request = http::Request::get(format!("{scheme}://{host}:{port}/"));
    let request = request.body(Segments::default()).unwrap();
    tokio::select! {
        accepted = listener.accept() => {
            accepted.unwrap();
            Ok(())
        }
        sent = transport.send(request) => {
            // A connection that was made although the call failed would be waiting here.
            let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
            assert!(accepted.is_err(), "{host} was connected to");
            let Err(error) = sent else { panic!("nobody answers") };
            Err(format!("{error:?}"))
        }
    }
}

/// Every way to write 127.0.0.1 that a resolver knows; names resolve to it as well.
#[tokio::test]
async fn no_connection_is_made_to_a_private_address_however_it_is_written() {
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let refused = reaches("https", host, &[]).await.unwrap_err();
        // TLS itself does not take all of them for names.
        let expected = ["not one that may", "InvalidDnsName"];
        assert!(
            expected.iter().any(|why| refused.contains(why)),
            "{host}: {refused}"
        );
    }
}

#[tokio::test]
async fn what_is_listed_is_connected_to() {
    for (scheme, host, allow) in [
        ("http", "127.0.0.1", "127.0.0.1"),
        ("http", "localhost", "localhost"),
        ("http", "[::ffff:127.0.0.1]", "127.0.0.0/8"),
        ("https", "localhost", "127.0.0.0/8"),
    ] {
        let reached = reaches(scheme, host, &[allow, "::1"]).await;
        assert_eq!(reached, Ok(()), "{scheme}://{host}");
    }
    // Without TLS the host itself must be listed: a name may lead elsewhere tomorrow.
    assert!(
        reaches("http", "localhost", &["127.0.0.0/8"])
            .await
            .is_err()
    );
    assert!(reaches("http", "127.0.0.1", &["127.0.0.2"]).await.is_err());
}

/// A name that answers with a public address when it is looked at, and with a private one when it is connected to, is
/// refused when it is connected to: the addresses that were vetted are those that are used.
#[tokio::test]
async fn the_vetted_addresses_are_the_ones_connected_to() {
    let mut resolver = Resolver::new(Some(egress(&[])));
    let name = || "localhost".parse::<Name>().unwrap();
    let refused = resolver.call(name()).await.unwrap_err();
    assert!(refused.downcast_ref::<Refused>().is_some(), "{refused}");
    let mut trusted = Resolver::new(None);
    let addresses: Vec<_> = trusted.call(name()).await.unwrap().collect();
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
}
