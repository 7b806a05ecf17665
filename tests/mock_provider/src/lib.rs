//! A loopback LLM provider: OpenAI's and DashScope's wire formats, faults on
//! demand, and a ledger of what it served.
//!
//! ```no_run
//! use lyss_mock_provider::{MockProvider, Options, Script};
//!
//! # fn main() -> std::io::Result<()> {
//! let mock = MockProvider::start(Options::default())?;
//! mock.push(Script::status(503)); // the next request fails
//! println!("base_url: {}", mock.base_url_openai());
//! # Ok(())
//! # }
//! ```
//!
//! A request can also carry its own script: directives in double brackets in the
//! last user message (`[[status:429 retry-after:1]]`, `[[cut:100]]`,
//! `[[stall:500@2]]`, …; every word is listed at [`Script`] and in
//! `tests/fixtures/providers/README.md`). Over HTTP: `POST /__control` takes a
//! [`Control`], `GET /__ledger` and `GET /__requests` give what was seen.
//!
//! [`MockMem0`] is a memory service of the same kind, on a port of its own.
//!
//! The server runs on a thread and runtime of its own, so that it works under
//! paused clocks and in any kind of test.

mod answer;
mod bench;
mod conn;
mod control;
mod dashscope;
mod ledger;
mod mem0;
mod openai;
mod play;
mod reply;
mod script;
mod server;
mod service;
mod tokens;
mod vector;

pub use bench::Bench;
pub use control::{Control, Rule};
pub use ledger::{Entry, Outcome, RecordedRequest};
pub use mem0::{Flavor, Mem0Fault, Mem0Request, MockMem0};
pub use script::{Cut, LineEnd, Script, Stall, UsageKind};
pub use server::{MockProvider, Options};
