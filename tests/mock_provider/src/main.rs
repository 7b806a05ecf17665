//! `mock-provider`: the loopback provider as a process.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lyss_mock_provider::{Bench, Flavor, MockMem0, MockProvider, Options, Script};

/// A loopback LLM provider with OpenAI's and DashScope's wire formats.
#[derive(Debug, Parser)]
#[command(name = "mock-provider")]
struct Args {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Wait before each response head, in milliseconds
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// Accepted API key (repeatable); none accepts any
    #[arg(long = "key")]
    keys: Vec<String>,
    /// Answer canned bytes only, as cheaply as possible
    #[arg(long)]
    bench: bool,
    /// With --bench: bytes of the small body
    #[arg(long, default_value_t = 200)]
    small: usize,
    /// With --bench: bytes of the large body (model names containing "large")
    #[arg(long, default_value_t = 100 * 1024)]
    large: usize,
    /// With --bench: chunks of a stream
    #[arg(long, default_value_t = 100)]
    chunks: usize,
    /// Be a mem0 instead, hosted or self-hosted; it accepts the first --key
    #[arg(long, value_parser = ["platform", "oss"])]
    mem0: Option<String>,
    /// With --bench: pause between chunks, in milliseconds
    #[arg(long, default_value_t = 10)]
    every: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(flavor) = &args.mem0 {
        return mem0(&args, flavor);
    }
    let bench = Bench {
        small: args.small,
        large: args.large,
        chunks: args.chunks,
        every: Duration::from_millis(args.every),
    };
    let options = Options {
        port: args.port,
        keys: args.keys,
        base: Script {
            delay_ms: args.latency,
            ..Script::default()
        },
        bench: args.bench.then_some(bench),
        ..Options::default()
    };
    match MockProvider::start(options) {
        Ok(mock) => {
            println!("listening on {}", mock.addr());
            mock.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "mock-provider: cannot listen on port {}: {error}",
                args.port
            );
            ExitCode::from(3)
        }
    }
}

fn mem0(args: &Args, flavor: &str) -> ExitCode {
    let flavor = match flavor {
        "platform" => Flavor::Platform,
        _ => Flavor::Oss,
    };
    let key = args.keys.first().map_or("", String::as_str);
    match MockMem0::start(flavor, key, args.port) {
        Ok(mock) => {
            println!("listening on {}", mock.addr());
            mock.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "mock-provider: cannot listen on port {}: {error}",
                args.port
            );
            ExitCode::from(3)
        }
    }
}
