//! What two services must agree on: the record on the log, the topics, the version rule.
//!
//! No I/O and no async in here. The rule in one sentence: *newer* means *greater as a byte string*
//! (see [`version`]); merging any mix of records is taking the greatest version per row.

pub mod erasure;
pub mod record;
pub mod row;
pub mod time;
pub mod topic;
pub mod version;

pub use record::{Invalid, Marker, Record, Rejected};
pub use row::{Chat, Message, Row, RowKey, Stamp};
pub use time::Timestamp;
pub use topic::{Topics, partition_of};
pub use version::{Version, VersionFields};
