//! The command line: what is asked for, and how it ended.

mod chat;
mod check;
mod database;
mod json_lines;
mod keys;
mod logging;
mod migrate;
mod screen;
mod serve;
mod usage;

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use lyss_core::{
    Error, ErrorKind,
    config::{Config, Diagnostic, Env, Loaded},
};

/// An AI gateway that speaks OpenAI's API.
#[derive(Parser)]
#[command(name = "lyss", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct Global {
    /// Configuration file (YAML). Without it the embedded default is used
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the data lies: the SQLite file, the spool, generated secrets
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the gateway (what `lyss` alone does)
    Serve,
    /// Validate the configuration
    Check,
    /// Apply the database migrations
    Migrate,
    /// API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// What was used
    Usage(usage::Args),
    /// Talk to the gateway
    Chat(chat::Args),
}

/// Why a command did not do what was asked.
enum Failure {
    /// The input or the configuration is wrong: exit code 1.
    Wrong(String),
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Something outside failed, such as a database or a port: exit code 3.
    Outside(String),
}

type Outcome = Result<(), Failure>;

impl Failure {
    fn diagnostics(found: &[Diagnostic]) -> Self {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        Self::Wrong(lines.join("\n"))
    }

    fn outside(error: impl fmt::Display) -> Self {
        Self::Outside(error.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
            Self::Outside(_) => 3,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // On the command line the cause is for the one who asked.
        let cause =
            std::error::Error::source(&error).map_or(String::new(), |cause| format!(" ({cause})"));
        let message = format!("{}{cause}", error.message());
        match error.kind() {
            ErrorKind::InvalidValue | ErrorKind::MissingField | ErrorKind::NotFound => {
                Self::Wrong(message)
            }
            _ => Self::Outside(message),
        }
    }
}

/// Runs the command; gives the contract's exit code.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let global = &cli.global;
    let outcome = match cli.command {
        None | Some(Command::Serve) => serve::run(global),
        Some(Command::Check) => check::run(global),
        Some(Command::Migrate) => block_on(migrate::run(global)),
        Some(Command::Keys(command)) => block_on(keys::run(global, command)),
        Some(Command::Usage(args)) => block_on(usage::run(global, args)),
        Some(Command::Chat(args)) => block_on(chat::run(global, args)),
    };
    logging::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (Failure::Wrong(message) | Failure::Usage(message) | Failure::Outside(message)) =
                &failure;
            eprintln!("{message}");
            ExitCode::from(failure.code())
        }
    }
}

/// What of a configuration has no effect in this version, and why.
fn without_effect(config: &Config) -> Vec<(String, &'static str)> {
    let why = |key: &str| match key {
        "monitoring.jaeger" => {
            "traces go out as OTLP, not in Jaeger's own format (not in this version)"
        }
        _ => "is accepted and has no effect in this version",
    };
    let keys = config.not_yet_in_force();
    keys.into_iter()
        .map(|key| {
            let why = why(&key);
            (key, why)
        })
        .collect()
}

fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::outside)?
        .block_on(command)
}

impl Global {
    /// The environment, with the working directory's `.env` beneath it.
    fn env(&self) -> Result<Env, Failure> {
        let here = std::env::current_dir().map_err(Failure::outside)?;
        Env::from_process(&here).map_err(|found| Failure::diagnostics(&found))
    }

    /// The configuration: the file, or the embedded default.
    fn load(&self, env: &Env) -> Result<Loaded, Vec<Diagnostic>> {
        let mut loaded = match &self.config {
            Some(path) => Config::load(path, env)?,
            None => Config::embedded_default(env)?,
        };
        self.apply(&mut loaded.config);
        Ok(loaded)
    }

    /// What the command line says over the file.
    fn apply(&self, config: &mut Config) {
        if let Some(dir) = &self.data_dir {
            config.data.dir = Some(dir.clone());
        }
    }

    fn config(&self) -> Result<Config, Failure> {
        let env = self.env()?;
        self.load(&env)
            .map(|loaded| loaded.config)
            .map_err(|found| Failure::diagnostics(&found))
    }
}
