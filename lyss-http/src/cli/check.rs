//! `lyss check`: every error of the configuration at once.

use super::{Failure, Global, Outcome, without_effect};

pub(super) fn run(global: &Global) -> Outcome {
    let env = global.env()?;
    let loaded = global
        .load(&env)
        .map_err(|found| Failure::diagnostics(&found))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    for (key, why) in without_effect(&loaded.config) {
        eprintln!("warning: {key}: {why}");
    }
    if let Some(tls) = &loaded.config.server.tls {
        lyss_http::edge::tls::load(&tls.cert, &tls.key)
            .map_err(|error| Failure::Wrong(format!("server.tls: {error}")))?;
    }
    let name = global
        .config
        .as_ref()
        .map_or("the embedded default".into(), |path| {
            path.display().to_string()
        });
    println!("{name}: ok");
    Ok(())
}
