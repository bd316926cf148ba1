//! The contract, as its users see it.

mod erasures;
mod records;
mod versions;
