//! What is printed at start: where the gateway is, what it serves, and how to try it.

use std::{fmt::Write, net::SocketAddr};

use lyss_core::{
    config::{AuthMode, Config},
    engine::ProviderSummary,
};

/// Models of one provider that are named; the rest is counted.
const MODELS_SHOWN: usize = 6;

/// The screen.
pub(super) fn screen(
    config: &Config,
    address: SocketAddr,
    providers: &[ProviderSummary],
) -> String {
    let url = base_url(config, address);
    let mut out = format!(
        "Lyss {} is ready\n\n  API   {url}/v1\n  docs  {url}/docs\n",
        env!("CARGO_PKG_VERSION")
    );
    if config.monitoring.prometheus.enabled {
        let _ = writeln!(
            out,
            "  metrics  http://{}/metrics",
            config.monitoring.prometheus.addr
        );
    }
    out.push_str("\nProviders\n");
    let width = providers.iter().map(|p| p.id.len()).max().unwrap_or(0);
    for provider in providers {
        let mut models = provider
            .models
            .iter()
            .take(MODELS_SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if let Some(more) = provider
            .models
            .len()
            .checked_sub(MODELS_SHOWN)
            .filter(|more| *more > 0)
        {
            let _ = write!(models, " and {more} more");
        }
        let note = provider
            .note
            .as_ref()
            .map_or(String::new(), |note| format!(" ({note})"));
        let _ = writeln!(
            out,
            "  {:width$}  {}{note}  {models}",
            provider.id, provider.kind
        );
    }
    let model = example_model(providers);
    let key = match config.auth_mode() {
        AuthMode::Keys => " -H \"authorization: Bearer $LYSS_API_KEY\"",
        AuthMode::None => "",
    };
    let _ = write!(
        out,
        "\nTry it\n  curl {url}/v1/chat/completions{key} -H 'content-type: application/json' \\\n    -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n"
    );
    out
}

/// The address at which this machine reaches the gateway.
pub(super) fn base_url(config: &Config, address: SocketAddr) -> String {
    let scheme = if config.server.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{scheme}://{address}")
}

fn example_model(providers: &[ProviderSummary]) -> &str {
    let simulated = providers
        .iter()
        .any(|provider| provider.kind == "simulated");
    if simulated {
        return "simulated/echo";
    }
    providers
        .iter()
        .find_map(|provider| provider.models.first())
        .map_or("MODEL", String::as_str)
}
