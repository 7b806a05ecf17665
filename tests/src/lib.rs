//! What tests across packages share: the world they run in (a mock provider, a data directory, a configuration) and the
//! runner of the shared cases; and for the tests of the whole system the `lyss` binary as a process, servers that can be stopped,
//! a client that can go away, and the tables as anybody with a database client sees them. A door runs every case of `fixtures/cases`; the runner has no code for any one of them.

pub mod case;
pub mod client;
pub mod door;
pub mod http_door;
pub mod matching;
pub mod pair;
pub mod process;
pub mod rust_door;
pub mod script_door;
pub mod secrets;
pub mod services;
pub mod store;
pub mod world;
