//! What the tests of the whole pipeline share: its processes, a reader like the page, the vendor's API.

pub mod browser;
pub mod checker;
pub mod compared;
pub mod flow;
pub mod http;
pub mod metrics;
pub mod own_api;
pub mod own_kafka;
pub mod own_mirror;
pub mod own_postgres;
pub mod own_redis;
pub mod pipeline;
#[path = "../../xtask/src/ports.rs"]
mod ports;
pub mod process;
pub mod proxy;
pub mod reader;
pub mod regions;
pub mod socket;
pub mod tool;
pub mod vendor;
