//! The parts of the platform on real servers.

mod kafka;
mod leases;
