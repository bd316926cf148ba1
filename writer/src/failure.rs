//! Errors of a store, named by what happens next.

use std::error::Error;

use sqlx::Error as Sqlx;

/// Why a batch was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may pass by itself: try the same again, for ever.
    #[error("the store cannot be used now: {0}")]
    Transient(String),
    /// Too much for now: try less at once, and the least that there is for ever.
    #[error("too much for the store at once: {0}")]
    Saturated(String),
    /// Some record in it cannot be stored: find that one.
    #[error("the store refuses the data: {0}")]
    Data(String),
}

impl From<Sqlx> for StoreError {
    /// By SQLSTATE class (PostgreSQL's documentation, appendix A): 22 is a data exception, 23 an integrity
    /// violation, 54 an exceeded limit of the program; 53 are exhausted resources, such as a full disk, and 57014 is a
    /// statement that took longer than it may; all else may pass.
    fn from(error: Sqlx) -> Self {
        let text = chain(&error);
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        match (&error, code.as_deref()) {
            (Sqlx::Encode(_), _) => Self::Data(text),
            (_, Some(code)) if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Self::Data(text),
            (_, Some(code)) if code.starts_with("53") || code == "57014" => Self::Saturated(text),
            _ => Self::Transient(text),
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Many errors already print their cause.
        if !text.contains(&error.to_string()) {
            text = format!("{text}: {error}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server says with this SQLSTATE.
    #[derive(Debug, thiserror::Error)]
    #[error("the server says {0}")]
    struct Said(&'static str);

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn what_next(code: &'static str) -> &'static str {
        match StoreError::from(Sqlx::Database(Box::new(Said(code)))) {
            StoreError::Transient(_) => "the same again",
            StoreError::Saturated(_) => "less at once",
            StoreError::Data(_) => "find the record",
        }
    }

    #[test]
    fn what_happens_next_is_told_by_the_class_of_the_sqlstate() {
        for code in ["22021", "22P05", "23514", "54000"] {
            assert_eq!(what_next(code), "find the record", "{code}");
        }
        for code in ["53100", "53200", "57014"] {
            assert_eq!(what_next(code), "less at once", "{code}");
        }
        // Read-only, ended by an operator, a deadlock, no connection.
        for code in ["25006", "57P01", "40P01", "08006"] {
            assert_eq!(what_next(code), "the same again", "{code}");
        }
        assert!(matches!(StoreError::from(Sqlx::PoolTimedOut), StoreError::Transient(_)));
        assert!(matches!(StoreError::from(Sqlx::Encode("a NUL".into())), StoreError::Data(_)));
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_each_once() {
        let cause = std::io::Error::other("the disk is gone");
        let error = anyhow::Error::from(cause).context("reading a page").context("asking");
        assert_eq!(chain(error.as_ref()), "asking: reading a page: the disk is gone");
        assert_eq!(
            chain(&Sqlx::Io(std::io::Error::other("reset"))),
            Sqlx::Io(std::io::Error::other("reset")).to_string()
        );
    }
}
