//! PostgreSQL and Redis: the shared servers of a test run, and servers of a test's own that it may stop.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sqlx::Connection;

/// The address of the PostgreSQL server that the tests share.
pub fn postgres() -> String {
    from_env("LYSS_TEST_POSTGRES")
}

/// `host:port` of the Redis server that the tests share.
pub fn redis() -> String {
    address(&from_env("LYSS_TEST_REDIS"))
}

fn from_env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make test`, or start a server with tests/services/")
    })
}

fn address(url: &str) -> String {
    url.trim_start_matches("redis://")
        .trim_end_matches('/')
        .to_owned()
}

/// Makes a fresh database on a server; gives its URL.
pub async fn new_database(server: &str) -> String {
    let name = format!("lyss_e2e_{}", uuid::Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(server)
        .await
        .expect("PostgreSQL answers");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .expect("a database is made");
    let (base, _) = server.rsplit_once('/').expect("a URL");
    format!("{base}/{name}")
}

/// A server that belongs to one test. It is stopped when dropped.
pub struct Server {
    script: PathBuf,
    dir: tempfile::TempDir,
    /// Its URL.
    pub url: String,
    up: bool,
}

impl Server {
    /// A PostgreSQL server.
    pub fn postgres() -> Self {
        Self::start("postgres.sh")
    }

    /// A Redis server.
    pub fn redis() -> Self {
        Self::start("redis.sh")
    }

    fn start(script: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("services")
            .join(script);
        let dir = tempfile::tempdir().expect("a directory");
        let url = run(&script, &["start".as_ref(), dir.path().as_ref()]);
        Self {
            script,
            dir,
            url,
            up: true,
        }
    }

    /// Where its files lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        address(&self.url)
    }

    /// Stops it at once, as a crash would.
    pub fn stop(&mut self) {
        run(&self.script, &["stop".as_ref(), self.dir.path().as_ref()]);
        self.up = false;
    }

    /// Kills it as the kernel would (SIGKILL).
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.up = false;
    }

    /// Stops its processes where they are: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets its processes go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends a signal to the server and to the processes that it has started.
    fn signal(&self, signal: &str) {
        let address = self.address();
        let (_, port) = address.rsplit_once(':').expect("a port");
        let file = match self.script.ends_with("redis.sh") {
            true => self.dir().join(port).join("pid"),
            false => self.dir().join("data/postmaster.pid"),
        };
        let text = std::fs::read_to_string(file).expect("it runs");
        let server = text.lines().next().expect("a process id").trim().to_owned();
        let send = |to: &str| Command::new("kill").args([signal, to]).status();
        // The server first, so that it starts no more; a child may end before its turn comes.
        assert!(send(&server).expect("kill runs").success());
        let children = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &server])
            .output()
            .expect("ps runs");
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            let _ = send(child);
        }
    }

    /// Starts it again, with its data, at the same address.
    pub fn up(&mut self) {
        let dir = self.dir.path().as_os_str();
        if self.script.ends_with("redis.sh") {
            let address = self.address();
            let (_, port) = address.rsplit_once(':').expect("a port");
            run(&self.script, &["start".as_ref(), dir, port.as_ref()]);
        } else {
            run(&self.script, &["up".as_ref(), dir]);
        }
        self.up = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.up {
            self.thaw();
            let _ = Command::new(&self.script)
                .arg("stop")
                .arg(self.dir.path())
                .status();
        }
    }
}

/// Runs a script to its end; gives the last line that it printed.
fn run(script: &Path, args: &[&std::ffi::OsStr]) -> String {
    // Into a file: the server inherits what the script has, and would keep a pipe open for ever.
    let output = tempfile::NamedTempFile::new().expect("a file");
    let status = Command::new(script)
        .args(args)
        .stdin(Stdio::null())
        .stdout(output.reopen().expect("the file"))
        .status()
        .expect("the script runs");
    let text = std::fs::read_to_string(output.path()).expect("its output");
    assert!(status.success(), "{} {args:?}: {text}", script.display());
    text.lines().last().unwrap_or_default().to_owned()
}
