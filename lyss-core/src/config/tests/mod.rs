//! Tests of reading, checking and loading as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_files;
mod environment;
mod example;
mod loading;
mod prices;

use super::{Config, Diagnostic, Env, Loaded};

/// Loads a text that must be right.
fn good(text: &str, env: &Env) -> Loaded {
    Config::parse("gateway.yaml", text, env).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

/// Loads a text that must be wrong and gives the report.
fn bad(text: &str, env: &Env) -> String {
    match Config::parse("g.yaml", text, env) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => lines(&errors),
    }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let shown: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    shown.join("\n")
}
