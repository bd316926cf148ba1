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
