//! How long a leader goes on that achieves nothing: another one may be able to do what it cannot (decision 11).

use std::time::Duration;

/// After this time it lets another try.
const FIRST: Duration = Duration::from_secs(15);
/// If nobody can do the work, leadership goes round, more and more slowly.
const LONGEST: Duration = Duration::from_secs(300);

/// The patience of one process, over its terms.
#[derive(Debug)]
pub struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Patience {
    /// In a term in which the work was done, or was not yet.
    pub fn of_a_term(&self, has_worked: bool) -> Duration {
        if has_worked { FIRST } else { self.0 }
    }

    /// A term has ended, in which the work was done or was not.
    pub fn after_a_term(&mut self, has_worked: bool) {
        self.0 = if has_worked { FIRST } else { LONGEST.min(self.0 * 2) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_every_term_that_achieved_nothing_and_no_longer_than_an_outage() {
        let mut patience = Patience::default();
        for expected in [15, 30, 60, 120, 240, 300, 300] {
            assert_eq!(patience.of_a_term(false), Duration::from_secs(expected));
            patience.after_a_term(false);
        }
        assert_eq!(patience.of_a_term(true), FIRST, "a term that works is judged as any");
        patience.after_a_term(true);
        assert_eq!(patience.of_a_term(false), FIRST);
    }
}
