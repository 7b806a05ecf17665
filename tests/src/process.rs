//! The `lyss` binary as a process: started, spoken to, killed.

use std::{
    ffi::OsString,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{client::Client, secrets, store::Store, world::lay_over};

/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// The binary, as built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/<profile>/deps")
        .join("lyss");
    assert!(
        path.is_file(),
        "{} is missing: `cargo build --workspace` makes it",
        path.display()
    );
    path
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// Sends a process a signal.
pub fn signal(name: &str, pid: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status()
        .expect("kill runs");
    assert!(status.success());
}

/// What a gateway is started with: a directory of its own, arguments and environment.
pub struct Setup {
    /// Its working directory, with its data below it.
    pub dir: tempfile::TempDir,
    /// Its configuration file.
    pub config: PathBuf,
    env: Vec<(OsString, OsString)>,
    under: Vec<OsString>,
}

impl Setup {
    /// A gateway on a free port of this machine, SQLite in its own directory, no metrics port; `overlay` is laid over
    /// that.
    pub fn new(overlay: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = json!({
            "server": {"http": {"addr": "127.0.0.1:0"}},
            "data": {"dir": dir.path().join("data")},
            "routing": {"default_provider": "openai", "health_check": {"enabled": false}},
            "monitoring": {"prometheus": {"enabled": false}},
        });
        lay_over(&mut config, overlay);
        secrets::plant_all(&config);
        let path = dir.path().join("gateway.yaml");
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).expect("the file is written");
        Self::with_file(dir, path)
    }

    /// A gateway with a configuration file that lies anywhere.
    pub fn with_file(dir: tempfile::TempDir, config: PathBuf) -> Self {
        Self {
            dir,
            config,
            env: Vec::new(),
            under: Vec::new(),
        }
    }

    /// With an environment variable. Nothing else of this process's environment reaches the gateway, except `PATH`.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Run by another program, which becomes it (`exec`).
    pub fn under(mut self, program: &[impl AsRef<std::ffi::OsStr>]) -> Self {
        self.under = program
            .iter()
            .map(|part| part.as_ref().to_owned())
            .collect();
        self
    }

    /// The SQLite file of [`Setup::new`].
    pub fn sqlite(&self) -> Store {
        Store::Sqlite(self.dir.path().join("data/lyss.db"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut words = self.under.iter().cloned().chain([binary().into()]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command
            .args(words)
            .args(args)
            .arg("--config")
            .arg(&self.config)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a subcommand to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("lyss runs")
    }

    /// Makes an API key with `lyss keys create`; gives its secret.
    pub fn create_key(&self, args: &[&str]) -> String {
        let output = self.run(&[&["keys", "create"], args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let key = text(&output.stdout);
        // The part before it is public.
        if let Some((_, secret)) = key.rsplit_once('_') {
            secrets::plant(secret);
        }
        key
    }

    /// Starts `lyss serve`, without waiting for it.
    pub fn spawn(&self) -> Lyss {
        let log = self
            .dir
            .path()
            .join(format!("{}.log", uuid::Uuid::new_v4().simple()));
        let stdout = log.with_extension("out");
        let child = self
            .command(&["serve"])
            .stdout(File::create(&stdout).expect("a file"))
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("lyss starts");
        Lyss {
            child,
            log,
            stdout,
            address: None,
        }
    }

    /// Starts `lyss serve` and waits until it is ready.
    pub async fn start(&self) -> Lyss {
        let mut lyss = self.spawn();
        lyss.ready().await;
        lyss
    }
}

/// A running gateway. It is killed when dropped.
pub struct Lyss {
    child: Child,
    log: PathBuf,
    stdout: PathBuf,
    address: Option<SocketAddr>,
}

impl Lyss {
    /// Waits until it listens; gives the address.
    pub async fn listening(&mut self) -> SocketAddr {
        let end = Instant::now() + PATIENCE;
        while self.address.is_none() {
            assert!(
                self.exited().is_none() && Instant::now() < end,
                "lyss does not listen:\n{}",
                self.log()
            );
            self.address = self.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "listening")
                    .then(|| line["address"].as_str()?.parse().ok())
                    .flatten()
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut address = self.address.expect("just found");
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        address
    }

    /// Waits until it is ready to serve.
    pub async fn ready(&mut self) -> Client {
        let client = Client::new(self.listening().await);
        let end = Instant::now() + PATIENCE;
        while client.get("/ready").await.status != 200 {
            assert!(Instant::now() < end, "lyss is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        let mut address = self.address.expect("`ready` was awaited");
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        address
    }

    /// A client of it, without a key.
    pub fn client(&self) -> Client {
        Client::new(self.address())
    }

    /// Kills it as the kernel would (SIGKILL).
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended")
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Stops it in the middle of everything, with its connections open, until [`Lyss::thaw`].
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(name, &self.pid().to_string());
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it has in use now, in bytes.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .expect("a size");
        kib.parse::<u64>().expect("a number") << 10
    }

    /// Waits for its end.
    pub async fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let exited = self.exited();
            if exited.is_some() || Instant::now() >= end {
                return exited;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it logs this text within two seconds.
    pub async fn logs(&self, text: &str) -> bool {
        let end = Instant::now() + Duration::from_secs(2);
        while !self.log().contains(text) {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }
}

impl Drop for Lyss {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            secrets::none_in("the log", self.log().as_bytes());
            secrets::none_in("what was printed", self.stdout().as_bytes());
        }
    }
}
