//! What would make sense in a program that is not about chat.

pub mod api;
pub mod config;
pub mod dead_letters;
pub mod event_log;
pub mod fail_point;
pub mod health;
pub mod http;
pub mod leadership;
pub mod lifecycle;
pub mod postgres;
pub mod redis;
pub mod regions;
pub mod retry;
pub mod sqlite;
pub mod telemetry;
pub mod testing;
pub mod tls;
