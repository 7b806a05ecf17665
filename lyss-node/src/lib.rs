//! Lyss in a Node process: the native part of the npm package `lyss`.
//!
//! It knows HTTP requests without a socket and nothing of what they mean: paths, types, errors and iterators are written
//! in TypeScript (`lib/`) over three primitives. A `gateway` is opened and closed, a `call` is made, pulled and
//! cancelled, a `provider` written in JavaScript is asked. Everything that happens comes back through one function of
//! the environment's thread, the `inbox`.
//!
//! No promise is made here: one thread-safe function for a gateway costs less than one for every promise, and does not
//! keep an idle process alive.

mod call;
mod gateway;
mod inbox;
mod provider;
mod runtime;
