//! The vendor, through its API.

mod api;
mod replay;
