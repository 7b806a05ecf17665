//! `lyss`: the gateway from the command line.

mod cli;

/// Many small allocations of several threads: the platform's allocator is the slower one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
