//! The control socket and the agents' socket: HTTP over Unix sockets, both ends.

pub mod api;
pub mod choice;
pub mod client;
mod intervention;
pub mod peer;
pub mod refused;
mod routes;
pub mod server;
mod stream;
