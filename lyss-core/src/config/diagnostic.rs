//! What is wrong with a configuration, and where.

use std::fmt;

/// One error or warning about one place of a configuration.
///
/// Shown as `file:line:column: key: message`, the form that editors and CI annotate. A value that
/// came from the environment has no line: `environment: key: message`, and the message names the
/// variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file as the caller named it, or `environment`.
    pub file: String,
    /// Line, counted from 1; 0 when there is none.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when there is none.
    pub column: usize,
    /// Dotted path of the key, e.g. `server.http.timeout` or `routing.rules[2].provider`; empty
    /// for the file as a whole.
    pub key: String,
    /// What is wrong and what is accepted. Never contains a secret.
    pub message: String,
}

impl Diagnostic {
    /// Makes a diagnostic about a file as a whole.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            key: String::new(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Finds the candidate that was probably meant by `given`, if one is near enough.
pub(super) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = given.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&given, candidate), candidate))
        // A third of the letters may differ: `timout` is a slip, `foo` for `ttl` is not.
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_slips_and_refuses_guesses() {
        let keys = ["timeout", "max_retries", "default_provider", "ttl"];
        assert_eq!(nearest("timout", keys), Some("timeout"));
        assert_eq!(nearest("max-retries", keys), Some("max_retries"));
        assert_eq!(nearest("Default_Provider", keys), Some("default_provider"));
        assert_eq!(nearest("tll", keys), Some("ttl"));
        assert_eq!(nearest("colour", keys), None);
    }
}
