//! The gate on a real Redis, and the hub's protocol.

mod gate;
mod hub;
