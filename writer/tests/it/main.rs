//! The writer on a real Postgres.

mod postgres;
