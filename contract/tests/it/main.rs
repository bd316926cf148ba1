//! The contract, as its users see it.

mod records;
mod versions;
