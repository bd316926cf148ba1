//! What a leader, and who stands by, works with.

use std::sync::Arc;

use platform::health::{Check, Health};

use crate::budget::Budgeted;
use crate::config::Settings;
use crate::erasures::Erasures;
use crate::region::Region;
use crate::source::Source;
use crate::stored::Stored;
use crate::to_log::ToLog;

/// What a leader works with.
#[derive(Clone)]
pub struct World {
    pub settings: Settings,
    pub source: Arc<dyn Source>,
    pub stored: Arc<dyn Stored>,
    pub to_log: ToLog,
    pub region: Arc<Region>,
    pub erasures: Arc<Erasures>,
    pub log_check: Check,
    pub source_check: Check,
    pub reconcile_check: Check,
}

impl World {
    /// The source within its budget, and the checks.
    pub fn new(
        settings: Settings,
        source: Arc<dyn Source>,
        stored: Arc<dyn Stored>,
        to_log: ToLog,
        log_check: Check,
        region: Arc<Region>,
        health: &Health,
    ) -> Self {
        let source = Arc::new(Budgeted::new(source, settings.source_budget));
        let (source_check, reconcile_check) = (health.check("source"), health.check("reconcile"));
        let erasures = Arc::default();
        Self { settings, source, stored, to_log, region, erasures, log_check, source_check, reconcile_check }
    }
}
