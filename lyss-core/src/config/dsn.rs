//! PostgreSQL data source names: libpq keywords (`host=… user=…`) and URLs.
//!
//! Kept free of any database crate: the store turns [`PostgresSource`] into its driver's options.
//!
//! # Source
//! PostgreSQL documentation, "Connection Strings" (libpq), sections 34.1.1.1 and 34.1.1.2.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::diagnostic::nearest;
use super::secret::Secret;

/// Why a data source name cannot be read. Never repeats a value, which may be the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DsnError(String);

/// Where a PostgreSQL database is and who connects.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresSource {
    /// Host name or address; not used when `socket` is set.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Password, if one is given.
    pub password: Option<Secret>,
    /// Database; libpq's default is the role's name, and so is ours.
    pub dbname: String,
    /// How much TLS.
    pub sslmode: SslMode,
    /// Directory of the Unix socket, when `host` began with a slash.
    pub socket: Option<PathBuf>,
    /// PEM file of the authorities that may have signed the server's certificate.
    pub root_cert: Option<PathBuf>,
    /// PEM files of the client's certificate and key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// The name shown in `pg_stat_activity`.
    pub application_name: Option<String>,
    /// Keywords that were given and mean nothing here.
    pub ignored: Vec<String>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS only if the server insists.
    Allow,
    /// TLS if the server has it; libpq's default.
    #[default]
    Prefer,
    /// TLS, the server not verified.
    Require,
    /// TLS, the certificate's authority verified.
    VerifyCa,
    /// TLS, authority and host name verified.
    VerifyFull,
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const KEYWORDS: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "database",
];

/// Keywords of other drivers' or libpq's that can be left out without changing what is stored:
/// the pool has its own timeouts and every timestamp carries a zone.
const IGNORED: [&str; 10] = [
    "connect_timeout",
    "timezone",
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "gssencmode",
    "channel_binding",
];

impl Default for PostgresSource {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 5432,
            user: "postgres".to_owned(),
            password: None,
            dbname: "postgres".to_owned(),
            sslmode: SslMode::default(),
            socket: None,
            root_cert: None,
            client_cert: None,
            application_name: None,
            ignored: Vec::new(),
        }
    }
}

impl SslMode {
    /// libpq's name of the mode.
    pub fn as_str(self) -> &'static str {
        SSL_MODES
            .iter()
            .find(|(_, mode)| *mode == self)
            .map_or("prefer", |(name, _)| name)
    }
}

impl PostgresSource {
    /// Reads keywords or a `postgres://` or `postgresql://` URL.
    ///
    /// # Errors
    /// What is wrong with it, without any of its values.
    pub fn parse(text: &str) -> Result<Self, DsnError> {
        let text = text.trim();
        let pairs = match text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
        {
            Some(rest) => url_pairs(rest)?,
            None => keyword_pairs(text)?,
        };
        Self::from_pairs(pairs)
    }

    fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, DsnError> {
        let mut source = Self::default();
        let (mut dbname, mut user) = (None, None);
        let (mut host, mut hostaddr) = (None, None);
        let (mut cert, mut key) = (None, None);
        for (keyword, value) in pairs {
            match keyword.to_ascii_lowercase().as_str() {
                // An empty value is libpq's "not given".
                keyword if KEYWORDS.contains(&keyword) && value.is_empty() => {}
                "host" => host = Some(value),
                "hostaddr" => hostaddr = Some(value),
                "port" => {
                    source.port = value
                        .parse()
                        .ok()
                        .filter(|port| *port != 0)
                        .ok_or_else(|| DsnError("the port is not 1 to 65535".to_owned()))?;
                }
                "user" => user = Some(value),
                "password" => source.password = Some(Secret::new(value)),
                "dbname" | "database" => dbname = Some(value),
                "sslmode" => source.sslmode = ssl_mode(&value)?,
                "sslrootcert" => source.root_cert = Some(PathBuf::from(value)),
                "sslcert" => cert = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "application_name" => source.application_name = Some(value),
                other if IGNORED.contains(&other) => source.ignored.push(other.to_owned()),
                other => return Err(unknown_keyword(other)),
            }
        }
        source.client_cert = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(DsnError("sslcert and sslkey go together".to_owned())),
        };
        if let Some(host) = hostaddr.or(host) {
            source.set_host(&host)?;
        }
        if let Some(user) = user {
            source.dbname.clone_from(&user);
            source.user = user;
        }
        if let Some(dbname) = dbname {
            source.dbname = dbname;
        }
        Ok(source)
    }

    /// Sets the host; one that begins with a slash is a socket directory.
    ///
    /// # Errors
    /// When it is a list of hosts, which is not supported.
    pub fn set_host(&mut self, host: &str) -> Result<(), DsnError> {
        if host.contains(',') {
            return Err(DsnError("names several hosts; accepted: one".to_owned()));
        }
        if host.starts_with('/') {
            self.socket = Some(PathBuf::from(host));
        } else {
            self.socket = None;
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            self.host = bare.unwrap_or(host).to_owned();
        }
        Ok(())
    }

    /// Writes the source as libpq keywords, which [`PostgresSource::parse`] reads back.
    pub fn to_keywords(&self) -> Secret {
        let mut out = String::new();
        let mut push = |keyword: &str, value: &str| {
            if !out.is_empty() {
                out.push(' ');
            }
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            // Writing to a String cannot fail.
            let _ = write!(out, "{keyword}='{escaped}'");
        };
        match &self.socket {
            Some(socket) => push("host", &socket.to_string_lossy()),
            None => push("host", &self.host),
        }
        push("port", &self.port.to_string());
        push("user", &self.user);
        if let Some(password) = &self.password {
            push("password", password.expose());
        }
        push("dbname", &self.dbname);
        push("sslmode", self.sslmode.as_str());
        if let Some(path) = &self.root_cert {
            push("sslrootcert", &path.to_string_lossy());
        }
        if let Some((cert, key)) = &self.client_cert {
            push("sslcert", &cert.to_string_lossy());
            push("sslkey", &key.to_string_lossy());
        }
        if let Some(name) = &self.application_name {
            push("application_name", name);
        }
        Secret::new(out)
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, DsnError> {
    SSL_MODES
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, mode)| *mode)
        .ok_or_else(|| {
            let names: Vec<&str> = SSL_MODES.iter().map(|(name, _)| *name).collect();
            DsnError(format!("the sslmode is none of {}", names.join(", ")))
        })
}

fn unknown_keyword(keyword: &str) -> DsnError {
    // What stands before an `=` may be the tail of an unquoted password with a space in it.
    match nearest(keyword, KEYWORDS) {
        Some(near) => DsnError(format!("has an unknown keyword, did you mean {near}?")),
        None => DsnError(format!(
            "has an unknown keyword (a value with spaces needs single quotes); known: {}",
            KEYWORDS.join(", ")
        )),
    }
}

/// `key = value` pairs; a value may be quoted with `'`, a backslash escapes in both forms.
fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>, DsnError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || keyword.is_empty() {
            return Err(DsnError(
                "is neither a postgres:// URL nor keyword=value pairs (a value with spaces needs single quotes)"
                    .to_owned(),
            ));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.peek().copied() {
                None if quoted => {
                    return Err(DsnError("has a quote that is not closed".to_owned()));
                }
                None => break,
                Some('\'') if quoted => {
                    chars.next();
                    break;
                }
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => {
                    chars.next();
                    value.extend(chars.next());
                }
                Some(c) => {
                    chars.next();
                    value.push(c);
                }
            }
        }
        pairs.push((keyword, value));
    }
}

/// The pairs of `user:password@host:port/dbname?keyword=value&…`.
fn url_pairs(rest: &str) -> Result<Vec<(String, String)>, DsnError> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may hold an unescaped `/`; the host cannot hold an `@`.
    let (userinfo, location) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (authority, dbname) = location.split_once('/').unwrap_or((location, ""));
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let (host, port) = match authority.rfind(']') {
        Some(end) => {
            let (host, after) = authority.split_at(end + 1);
            (host, after.strip_prefix(':').unwrap_or(""))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let mut pairs = Vec::new();
    for (keyword, value) in [
        ("user", user),
        ("password", password),
        ("host", host),
        ("port", port),
        ("dbname", dbname),
    ] {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), percent_decode(value)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair
            .split_once('=')
            .ok_or_else(|| DsnError("has a parameter without a value".to_owned()))?;
        pairs.push((percent_decode(keyword)?, percent_decode(value)?));
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, DsnError> {
    let bad =
        || DsnError("has a % that is not followed by two hexadecimal digits of UTF-8".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
#[path = "tests/dsn.rs"]
mod tests;
