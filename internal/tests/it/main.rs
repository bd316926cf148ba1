//! The gate on a real Redis, the hub's protocol, sockets, and what stands before the copy.

mod gate;
mod hub;
mod shared_copy;
mod socket;
