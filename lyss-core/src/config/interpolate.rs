//! `${VAR}` and `${VAR:-default}`, expanded after parsing, once, scalar by scalar: a value that
//! holds `${…}`, quotes or line breaks stays one text and cannot add keys.

use super::env::Env;
use super::node::Scalar;

/// Expands one scalar in place. `$${` writes a literal `${`. What is not a well-formed `${NAME…}`
/// stays as it is.
pub(super) fn expand(scalar: &mut Scalar, env: &Env) {
    if !scalar.text.contains("${") {
        return;
    }
    let mut out = String::with_capacity(scalar.text.len());
    let mut rest = scalar.text.as_str();
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let Some(reference) = Reference::parse(from) else {
            out.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        };
        let value = match (env.get(reference.name), reference.default) {
            (Some(""), Some(default)) | (None, Some(default)) => Some(default),
            (value, _) => value,
        };
        match value {
            Some(value) => out.push_str(value),
            None => {
                scalar
                    .unset
                    .get_or_insert_with(|| reference.name.to_owned());
            }
        }
        scalar
            .variable
            .get_or_insert_with(|| reference.name.to_owned());
        rest = reference.rest;
    }
    out.push_str(rest);
    scalar.text = out;
}

struct Reference<'t> {
    name: &'t str,
    default: Option<&'t str>,
    rest: &'t str,
}

impl<'t> Reference<'t> {
    /// Parses `${NAME}` or `${NAME:-default}` at the start of `text`.
    fn parse(text: &'t str) -> Option<Self> {
        let (inside, rest) = text.strip_prefix("${")?.split_once('}')?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let mut bytes = name.bytes();
        let starts = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        (starts && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')).then_some(Self {
            name,
            default,
            rest,
        })
    }
}

#[cfg(test)]
#[path = "tests/interpolate.rs"]
mod tests;
