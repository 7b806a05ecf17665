//! One connection to Redis for everything that is kept there: a deadline for every command and a breaker, so that a
//! Redis that is away costs a request microseconds and not its patience.
//!
//! Used by `session/redis.rs` and `resilience/limit/`; idempotency follows.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::{
    Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisError, RedisFuture, RedisResult, ScriptInvocation, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterConfig},
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};
use arc_swap::ArcSwapOption;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::watch, time::timeout};

use crate::error::{Error, ErrorKind, Result};

/// Failures in a row after which commands are refused at once; the last of a command that began after the first.
const TRIP_AFTER: u32 = 5;
/// Between two attempts to reach a Redis that is away.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How long a start waits for the first connection before it goes on without.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How late a timer may come before the process counts as overloaded.
const LATE: Duration = Duration::from_millis(5);
/// Deadlines that an overloaded process waits at most: its own slowness is not taken for an outage.
const LATE_ROUNDS: u32 = 10;
/// Bytes for which a command gets a millisecond more: 20 MB/s, so that a long message is not taken for an outage.
const BYTES_PER_MS: usize = 20_000;

/// Where Redis is and how to speak to it.
#[derive(Debug, Clone)]
pub struct RedisSource {
    /// `host`, `host:port` or `[v6]:port`; the port is 6379 if absent. Not used when `cluster` is given.
    pub addr: String,
    /// Some nodes of a Redis Cluster; empty for a single server.
    pub cluster: Vec<String>,
    /// TLS, checked against the system's certificate store.
    pub tls: bool,
    /// The ACL user; `None` for the default one.
    pub username: Option<String>,
    /// Its password; empty for none.
    pub password: SecretString,
    /// The database number; a cluster only has 0.
    pub db: i64,
    /// Bound of making a connection, handshake included.
    pub dial_timeout: Duration,
    /// Bound of one command, from sending it to its answer; one millisecond more for each 20 KB sent.
    pub command_timeout: Duration,
}

impl Default for RedisSource {
    fn default() -> Self {
        Self {
            addr: "localhost:6379".into(),
            cluster: Vec::new(),
            tls: false,
            username: None,
            password: SecretString::default(),
            db: 0,
            dial_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_millis(50),
        }
    }
}

/// A shared, self-repairing connection. Clones are the same connection.
#[derive(Clone)]
pub struct RedisHandle(Arc<Inner>);

struct Inner {
    target: Target,
    command_timeout: Duration,
    dial_timeout: Duration,
    connection: ArcSwapOption<Connection>,
    failures: AtomicU32,
    made: Instant,
    /// When the first of the failures was, in microseconds after `made`.
    failing_since: AtomicU64,
    /// Set while a probe task runs: commands fail at once.
    open: AtomicBool,
    advised: AtomicBool,
    interruptions: AtomicU64,
    reached: watch::Sender<bool>,
}

enum Target {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// Redis did not answer, or refused; for the caller to dress as its own store's error.
#[derive(Debug)]
pub(crate) struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl Failure {
    /// Whether Redis answered, and did not want to.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn is_refusal(&self) -> bool {
        let error = self.0.downcast_ref::<RedisError>();
        error.is_some_and(|error| !is_outage(error))
    }

    /// The failure as an error of a kind. The cause goes to the logs only.
    pub(crate) fn into_error(self, kind: ErrorKind, message: &'static str) -> Error {
        Error::new(kind, message).with_source(self.0)
    }
}

impl RedisHandle {
    /// Connects. A Redis that is away does not fail this: commands fail until it is back, which is looked for in the
    /// background.
    ///
    /// # Errors
    /// `invalid_value` if the source itself is wrong (an address that is none, a database number with a cluster).
    pub async fn connect(source: RedisSource) -> Result<Self> {
        if source.tls {
            // redis builds its rustls configuration from the process default; a host program may have set one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let handle = Self(Arc::new(Inner {
            target: Target::new(&source)?,
            command_timeout: source.command_timeout,
            dial_timeout: source.dial_timeout,
            connection: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            made: Instant::now(),
            failing_since: AtomicU64::new(0),
            open: AtomicBool::new(true),
            advised: AtomicBool::new(false),
            interruptions: AtomicU64::new(0),
            reached: watch::Sender::new(false),
        }));
        let mut reached = handle.0.reached.subscribe();
        tokio::spawn(probe(Arc::downgrade(&handle.0)));
        let patience = START_PATIENCE.min(source.dial_timeout);
        if timeout(patience, reached.wait_for(|up| *up)).await.is_err() {
            tracing::warn!("redis does not answer; starting without it and trying on");
        }
        Ok(handle)
    }

    /// Whether keys lie on several servers, so that one script cannot reach them all.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.target, Target::Cluster(_))
    }

    /// How many commands found no connection or no answer: while the number stays the same, so does the server.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn interruptions(&self) -> u64 {
        self.0.interruptions.load(Ordering::Acquire)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `store_unavailable` if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.command::<Value>(&::redis::cmd("PING"))
            .await
            .map(drop)
            .map_err(|failure| {
                failure.into_error(ErrorKind::StoreUnavailable, "redis does not answer")
            })
    }

    /// What the server says of itself; `None` if it may not be asked.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn info(&self) -> Result<Option<String>, Failure> {
        let value: Value = match self.command(&::redis::cmd("INFO")).await {
            Ok(value) => value,
            Err(failure) if failure.is_refusal() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let mut text = String::new();
        collect_text(&value, &mut text);
        Ok(Some(text))
    }

    /// Runs one command.
    pub(crate) async fn command<T: FromRedisValue + Send>(&self, cmd: &Cmd) -> Result<T, Failure> {
        let mut connection = self.connection()?;
        self.guarded(0, cmd.query_async(&mut connection)).await
    }

    /// Runs one script; `payload` is about how many bytes it sends.
    pub(crate) async fn script<T: FromRedisValue + Send>(
        &self,
        invocation: &ScriptInvocation<'_>,
        payload: usize,
    ) -> Result<T, Failure> {
        let mut connection = self.connection()?;
        self.guarded(payload, invocation.invoke_async(&mut connection))
            .await
    }

    fn connection(&self) -> Result<Connection, Failure> {
        if self.0.open.load(Ordering::Acquire) {
            return Err(Failure("redis is away; not asked".into()));
        }
        self.0
            .connection
            .load()
            .as_deref()
            .cloned()
            .ok_or_else(|| Failure("redis was never reached".into()))
    }

    async fn guarded<T>(
        &self,
        payload: usize,
        work: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Failure> {
        let extra = Duration::from_millis((payload / BYTES_PER_MS) as u64);
        let deadline = self.0.command_timeout + extra;
        let asked = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut rounds = 1..LATE_ROUNDS;
        let answer = loop {
            let began = Instant::now();
            match timeout(deadline, &mut work).await {
                // The timer came late: this process is slow, and the answer may lie in its socket.
                Err(_) if began.elapsed() >= deadline + LATE && rounds.next().is_some() => {}
                answer => break answer,
            }
        };
        match answer {
            Ok(Ok(value)) => {
                self.0.failures.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                if is_outage(&error) {
                    self.failed(asked);
                }
                Err(Failure(Box::new(error)))
            }
            Err(_) => {
                self.failed(asked);
                Err(Failure(
                    format!("redis did not answer within {deadline:?}").into(),
                ))
            }
        }
    }

    fn failed(&self, asked: Instant) {
        self.0.interruptions.fetch_add(1, Ordering::AcqRel);
        let failures = self.0.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let asked = asked.saturating_duration_since(self.0.made).as_micros() as u64;
        if failures == 1 {
            let now = self.0.made.elapsed().as_micros() as u64;
            self.0.failing_since.store(now, Ordering::Relaxed);
        }
        // All that was under way during one short hiccup fails at once, and says no more than one of it.
        if failures >= TRIP_AFTER
            && asked >= self.0.failing_since.load(Ordering::Relaxed)
            && !self.0.open.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(
                "redis failed {TRIP_AFTER} times in a row; not asking it until it is back"
            );
            self.0.reached.send_replace(false);
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

impl fmt::Debug for RedisHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHandle")
            .field("open", &self.0.open.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Whether an error says that the server cannot be used, and not only that it refused this command.
fn is_outage(error: &RedisError) -> bool {
    use ::redis::ErrorKind as Kind;
    match error.kind() {
        Kind::Io
        | Kind::AuthenticationFailed
        | Kind::ClusterConnectionNotFound
        | Kind::Parse
        | Kind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly,
        ) => true,
        _ => error.is_unrecoverable_error(),
    }
}

/// Dials until a connection answers, then closes the breaker. Always a new connection: the old one may be half open,
/// or lead to a primary that became a replica.
async fn probe(handle: Weak<Inner>) {
    loop {
        let Some(inner) = handle.upgrade() else {
            return;
        };
        match inner.dial().await {
            Ok(mut connection) => {
                if !inner.advised.swap(true, Ordering::Relaxed) {
                    advise(&mut connection, inner.dial_timeout).await;
                }
                inner.connection.store(Some(Arc::new(connection)));
                inner.failures.store(0, Ordering::Relaxed);
                inner.open.store(false, Ordering::Release);
                inner.reached.send_replace(true);
                tracing::info!("redis answers");
                return;
            }
            Err(error) => tracing::debug!(%error, "redis is not back"),
        }
        drop(inner);
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

/// Warns of settings under which Redis forgets sessions.
async fn advise(connection: &mut Connection, patience: Duration) {
    let info = ::redis::cmd("INFO");
    let Ok(Ok(value)) = timeout(patience, info.query_async::<Value>(connection)).await else {
        return; // not permitted: then nothing can be said
    };
    let mut text = String::new();
    collect_text(&value, &mut text);
    let has = |line: &str| text.lines().any(|l| l.trim_end() == line);
    if has("aof_enabled:0") {
        tracing::warn!(
            "redis keeps no append-only file: sessions of the time since its last snapshot are lost when it dies; set `appendonly yes`"
        );
    }
    let evicts = text
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("maxmemory_policy:"))
        .any(|policy| policy != "noeviction");
    if evicts && !has("maxmemory:0") {
        tracing::warn!(
            "redis evicts keys when its memory is full, sessions among them; set `maxmemory-policy noeviction`"
        );
    }
}

/// The text of a reply, whether of one server or of each node of a cluster.
fn collect_text(value: &Value, text: &mut String) {
    match value {
        Value::BulkString(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
        Value::VerbatimString { text: part, .. } => text.push_str(part),
        Value::Array(values) => values.iter().for_each(|value| collect_text(value, text)),
        Value::Map(entries) => entries
            .iter()
            .for_each(|(_, value)| collect_text(value, text)),
        _ => {}
    }
}

impl Inner {
    async fn dial(&self) -> RedisResult<Connection> {
        let mut connection = match &self.target {
            Target::Single(client) => {
                // No repeats inside the manager: the probe is who tries again.
                let config = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(self.dial_timeout))
                    .set_response_timeout(None)
                    .set_number_of_retries(0)
                    .set_pipeline_buffer_size(1024);
                Connection::Single(
                    ConnectionManager::new_with_config(Client::clone(client), config).await?,
                )
            }
            Target::Cluster(client) => {
                let config = ClusterConfig::new()
                    .set_connection_timeout(self.dial_timeout)
                    .set_response_timeout(self.dial_timeout);
                Connection::Cluster(client.get_async_connection_with_config(config).await?)
            }
        };
        match timeout(
            self.dial_timeout,
            ::redis::cmd("PING").exec_async(&mut connection),
        )
        .await
        {
            Ok(answer) => answer.map(|()| connection),
            Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
        }
    }
}

impl Target {
    fn new(source: &RedisSource) -> Result<Self> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let mut settings = RedisConnectionInfo::default().set_db(source.db);
        if let Some(username) = &source.username {
            settings = settings.set_username(username);
        }
        let password = source.password.expose_secret();
        if !password.is_empty() {
            settings = settings.set_password(password);
        }
        let info = |addr: &str| {
            address(addr, source.tls)?
                .into_connection_info()
                .map(|info| {
                    info.set_redis_settings(settings.clone())
                        .set_tcp_settings(tcp.clone())
                })
                .map_err(wrong)
        };
        if source.cluster.is_empty() {
            return Client::open(info(&source.addr)?)
                .map(|client| Self::Single(Box::new(client)))
                .map_err(wrong);
        }
        if source.db != 0 {
            return Err(Error::invalid(
                "data.redis.db",
                "a Redis Cluster has only database 0",
            ));
        }
        let nodes = source
            .cluster
            .iter()
            .map(|addr| info(addr))
            .collect::<Result<Vec<_>>>()?;
        ClusterClient::builder(nodes)
            .tcp_settings(tcp)
            .retries(3)
            .build()
            .map(|client| Self::Cluster(Box::new(client)))
            .map_err(wrong)
    }
}

fn wrong(error: RedisError) -> Error {
    Error::invalid("data.redis", "the redis settings cannot be used").with_source(error)
}

/// Reads `host[:port]`; a v6 address with a port stands in brackets.
fn address(text: &str, tls: bool) -> Result<ConnectionAddr> {
    let bad = || {
        Error::invalid(
            "data.redis.addr",
            format!("`{text}` is not an address: write host:port, for example localhost:6379"),
        )
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, "6379"),
        Some((host, port)) => (host, port.strip_prefix(':').ok_or_else(bad)?),
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err(bad()),
            Some((host, port)) => (host, port),
            None => (text, "6379"),
        },
    };
    let port = port.parse::<u16>().map_err(|_| bad())?;
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(bad());
    }
    let host = host.to_owned();
    Ok(if tls {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, port)
    })
}

/// Either kind of connection, to the commands the same.
#[derive(Clone)]
enum Connection {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| ConnectionAddr::Tcp(host.into(), port);
        for (text, expected) in [
            ("localhost:6379", tcp("localhost", 6379)),
            ("cache", tcp("cache", 6379)),
            ("[::1]:7000", tcp("::1", 7000)),
            ("[::1]", tcp("::1", 6379)),
        ] {
            assert_eq!(address(text, false).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            ":1",
            "a:b",
            "a:70000",
            "::1",
            "redis://a:1",
            "u@h:1",
            "[::1]x",
        ] {
            assert!(address(text, false).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_start_without_redis_succeeds_and_commands_fail_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let source = RedisSource {
            addr,
            dial_timeout: Duration::from_millis(100),
            ..RedisSource::default()
        };
        let handle = RedisHandle::connect(source).await.unwrap();
        let begin = Instant::now();
        let error = handle.ping().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
        assert!(begin.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test]
    async fn a_cluster_has_one_database() {
        let source = RedisSource {
            cluster: vec!["localhost:1".into()],
            db: 1,
            ..RedisSource::default()
        };
        let error = RedisHandle::connect(source).await.unwrap_err();
        assert_eq!(error.param(), Some("data.redis.db"));
    }
}
