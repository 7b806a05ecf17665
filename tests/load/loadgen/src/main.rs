//! The benchmark's load generator.
//!
//! It runs on one thread, so that it can share a core with the mock upstream
//! and leave the gateway a core of its own. Connections are raw hyper
//! connections: no pool, no retry, no redirect that would blur a measurement.
//!
//! Standard output carries two JSON lines: `{"event":"start"}` when the warm-up
//! is over and the window that counts begins, then the [`measure::Report`]. Whoever reads the
//! server's CPU time reads it at those two moments. With `--hold` the first
//! line says instead that every stream is open, and streams stay open until
//! the window ends.

mod client;
mod measure;
mod sse;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::client::{Connection, RequestTemplate};
use crate::measure::{Report, Samples};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One JSON answer, read to its end.
    Unary,
    /// A stream of events, read to its end, then the next one.
    Stream,
}

/// Sends chat requests in a closed loop and reports latencies as JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Where to send requests: `http://host:port/path`.
    url: String,
    #[arg(long, value_enum, default_value = "unary")]
    mode: Mode,
    /// Connections, each with one request at a time.
    #[arg(short, long, default_value_t = 1)]
    connections: usize,
    /// Length of the window that counts, in seconds.
    #[arg(short, long, default_value_t = 5.0)]
    duration: f64,
    /// Load before the window, in seconds.
    #[arg(short, long, default_value_t = 1.0)]
    warmup: f64,
    /// Size of the request body in bytes; the user's message is padded to it.
    #[arg(short, long, default_value_t = 200)]
    body: usize,
    /// Start of the user's message.
    #[arg(long, default_value = "")]
    prompt: String,
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
    /// API key for the `authorization` header; none is sent when empty.
    #[arg(long, env = "LYSS_API_KEY", default_value = "", hide_env_values = true)]
    api_key: String,
    /// Further request headers, `name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Count from the moment all streams are open instead of after the warm-up.
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadgen: no runtime: {error}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(LocalSet::new().run_until(run(args))) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("loadgen: {message}");
            ExitCode::from(3)
        }
    }
}

/// Runs all connections until the window ends.
///
/// # Errors
/// A bad argument, a server that does not answer, or `--hold` streams that do
/// not all open within 60 s.
async fn run(args: Args) -> Result<String, String> {
    let template = Rc::new(RequestTemplate::new(
        &args.url,
        &args.model,
        &args.prompt,
        args.body,
        args.mode == Mode::Stream,
        &args.api_key,
        &args.headers,
    )?);
    let samples = Rc::new(Samples::default());
    for _ in 0..args.connections {
        let connection = Connection::open(Rc::clone(&template)).await?;
        tokio::task::spawn_local(drive(connection, Rc::clone(&samples), args.mode));
    }
    if args.hold {
        wait_until_open(&samples, args.connections).await?;
    } else {
        tokio::time::sleep(Duration::from_secs_f64(args.warmup)).await;
    }
    samples.begin();
    println!(r#"{{"event":"start"}}"#);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(args.duration)).await;
    let elapsed = start.elapsed();
    let report = Report::new(&samples, elapsed, args.connections);
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

/// Sends one request after the other; a broken connection is opened anew.
async fn drive(mut connection: Connection, samples: Rc<Samples>, mode: Mode) {
    loop {
        let outcome = match mode {
            Mode::Unary => connection.unary(&samples).await,
            Mode::Stream => connection.stream(&samples).await,
        };
        if let Err(message) = outcome {
            samples.error(message);
            // An overloaded server must not turn the generator into a spinning loop.
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Err(message) = connection.reopen().await {
                samples.error(message);
            }
        }
    }
}

/// Waits until `count` streams have delivered their first event.
async fn wait_until_open(samples: &Samples, count: usize) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while samples.open_streams() < count {
        if Instant::now() > deadline {
            return Err(format!(
                "{} of {count} streams open after 60 s; last error: {}",
                samples.open_streams(),
                samples.last_error()
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
