//! Everything that may be killed, frozen, cut off or filled up, while people write; a checker finds whether anything
//! was lost, went backwards, or met more than one fate. `cargo xtask test faults` runs these and prints their table,
//! `--long` the long ones too, and writes docs/faults.md.

mod both_regions;
mod leaders;
mod lease;
mod mix;
mod pods;
mod poison;
mod redis;
mod region_trial;
mod regions;
mod servers;
mod small_disk;
mod table;
mod the_log;
mod trial;
mod writers;
