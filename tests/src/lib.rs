//! What tests across packages share: the world they run in (a mock provider, a data directory, a configuration) and the
//! runner of the shared cases. A door runs every case of `fixtures/cases`; the runner has no code for any one of them.

pub mod case;
pub mod door;
pub mod http;
pub mod matching;
pub mod world;
