//! The gate on a real Redis, the hub's protocol, sockets, and what stands before the copy.

mod access;
mod gate;
mod hub;
mod never_older;
mod older;
mod other_region;
mod receipts;
mod shared_copy;
mod socket;
