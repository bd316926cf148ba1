//! Settings: a flag, an environment variable, a default and a help text each, declared with clap.
//!
//! What clap does not do by itself is in here: a variable `CHAT_SYNC_…` that nobody reads refuses to
//! start and is named; a secret may also come from a file, named by the same variable with `_FILE`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use clap::Parser;

/// The prefix under which every variable must be known.
const PREFIX: &str = "CHAT_SYNC_";

/// The settings of all services: they may share an environment, so each accepts the others' and refuses the rest.
/// `cargo xtask check` holds this list to the services' own.
pub const SETTINGS: &[&str] = &[
    "CHAT_SYNC_AUTH",
    "CHAT_SYNC_AUTH_CHATS_HEADER",
    "CHAT_SYNC_AUTH_JWT_AUDIENCE",
    "CHAT_SYNC_AUTH_JWT_ISSUER",
    "CHAT_SYNC_AUTH_JWT_KEY",
    "CHAT_SYNC_AUTH_JWT_KEY_FILE",
    "CHAT_SYNC_AUTH_PROXIES",
    "CHAT_SYNC_AUTH_ROLE_HEADER",
    "CHAT_SYNC_AUTH_TOKENS",
    "CHAT_SYNC_AUTH_USER_HEADER",
    "CHAT_SYNC_COME_BACK_AFTER",
    "CHAT_SYNC_COMPARE_REGIONS_EVERY",
    "CHAT_SYNC_CONNECTIONS_PER_ADDRESS",
    "CHAT_SYNC_DATA_DIR",
    "CHAT_SYNC_EXTERNAL_DATABASE",
    "CHAT_SYNC_EXTERNAL_KEEP_CHANGES",
    "CHAT_SYNC_EXTERNAL_LISTEN",
    "CHAT_SYNC_EXTERNAL_PORT",
    "CHAT_SYNC_EXTERNAL_QUIET",
    "CHAT_SYNC_EXTERNAL_REPLAY",
    "CHAT_SYNC_EXTERNAL_SPEED",
    "CHAT_SYNC_EXTERNAL_TLS_CERT",
    "CHAT_SYNC_EXTERNAL_TLS_KEY",
    "CHAT_SYNC_GATE_DEADLINE",
    "CHAT_SYNC_GATE_TTL",
    "CHAT_SYNC_GIVE_WAY_AFTER",
    "CHAT_SYNC_HOLDER",
    "CHAT_SYNC_INTERNAL_LISTEN",
    "CHAT_SYNC_INTERNAL_PORT",
    "CHAT_SYNC_INTERNAL_TLS_CERT",
    "CHAT_SYNC_INTERNAL_TLS_KEY",
    "CHAT_SYNC_INTERNAL_URL",
    "CHAT_SYNC_KAFKA",
    "CHAT_SYNC_KAFKA_CA",
    "CHAT_SYNC_KAFKA_CERT",
    "CHAT_SYNC_KAFKA_KEY",
    "CHAT_SYNC_LEASE",
    "CHAT_SYNC_LEASE_NAMESPACE",
    "CHAT_SYNC_LEASE_RENEW",
    "CHAT_SYNC_LEASE_TTL",
    "CHAT_SYNC_LOAD",
    "CHAT_SYNC_LOG",
    "CHAT_SYNC_MARKER_EVERY",
    "CHAT_SYNC_OPERATOR_TOKEN",
    "CHAT_SYNC_OPERATOR_TOKEN_FILE",
    "CHAT_SYNC_ORIGINS",
    "CHAT_SYNC_OVERLAP",
    "CHAT_SYNC_POD",
    "CHAT_SYNC_POLL_LIMIT",
    "CHAT_SYNC_POLL_WAIT",
    "CHAT_SYNC_PREFERRED_REGION",
    "CHAT_SYNC_QUANTUM",
    "CHAT_SYNC_QUIET",
    "CHAT_SYNC_READ_AGAIN_EVERY",
    "CHAT_SYNC_RECONCILE_BUDGET",
    "CHAT_SYNC_RECONCILE_EVERY",
    "CHAT_SYNC_REDIS_CA",
    "CHAT_SYNC_REDIS_CERT",
    "CHAT_SYNC_REDIS_KEY",
    "CHAT_SYNC_REGION",
    "CHAT_SYNC_REGIONS",
    "CHAT_SYNC_REPLAY",
    "CHAT_SYNC_RING",
    "CHAT_SYNC_SOURCE",
    "CHAT_SYNC_SOURCE_BUDGET",
    "CHAT_SYNC_SOURCE_CA",
    "CHAT_SYNC_SOURCE_CERT",
    "CHAT_SYNC_SOURCE_KEY",
    "CHAT_SYNC_SOURCE_URL",
    "CHAT_SYNC_SPEED",
    "CHAT_SYNC_SYNCHRONIZER_LISTEN",
    "CHAT_SYNC_TAKE_OVER_AFTER",
    "CHAT_SYNC_TOPIC_SUFFIX",
    "CHAT_SYNC_WRITER_GROUP",
    "CHAT_SYNC_WRITER_LISTEN",
];

/// Variables with the prefix that are no service's setting: the test suite's.
const TEST_PREFIX: &str = "CHAT_SYNC_TEST_";

/// Reads the settings from this process's arguments and environment.
///
/// # Errors
/// A clap error that names the flag or the variable; `error.exit()` prints it as clap would.
pub fn load<T: Parser>() -> Result<T, clap::Error> {
    load_from(std::env::args_os().collect(), std::env::vars().collect())
}

/// Reads the settings from these arguments; `environment` is what files and unknown names are looked up in.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: Parser>(arguments: Vec<OsString>, environment: BTreeMap<String, String>) -> Result<T, clap::Error> {
    let mut command = T::command();
    refuse_unknown(&mut command, &environment)?;
    for (id, variable) in secrets(&command) {
        let Some(path) = environment.get(&format!("{variable}_FILE")) else { continue };
        if environment.contains_key(&variable) {
            return Err(refusal(&mut command, format!("both {variable} and {variable}_FILE are set; use one")));
        }
        let secret = std::fs::read_to_string(path)
            .map_err(|error| refusal(&mut command, format!("{variable}_FILE: cannot read {path}: {error}")))?;
        let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
        command = command.mut_arg(id, |arg| arg.default_value(secret).required(false).hide_default_value(true));
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// A setting that clap could read but the service cannot use.
pub fn refusal(command: &mut clap::Command, message: impl fmt::Display) -> clap::Error {
    command.error(clap::error::ErrorKind::ValueValidation, message)
}

fn refuse_unknown(command: &mut clap::Command, environment: &BTreeMap<String, String>) -> Result<(), clap::Error> {
    let mut known: Vec<String> = variables(command).into_iter().map(|(_, name)| name).collect();
    known.extend(secrets(command).into_iter().map(|(_, name)| format!("{name}_FILE")));
    for name in environment.keys().filter(|name| name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX)) {
        if !known.contains(name) && !SETTINGS.contains(&name.as_str()) {
            let mut names: Vec<_> = known.iter().filter(|name| name.starts_with(PREFIX)).cloned().collect();
            names.sort();
            return Err(refusal(
                command,
                format!("unknown environment variable {name}; known are: {}", names.join(", ")),
            ));
        }
    }
    Ok(())
}

fn variables(command: &clap::Command) -> Vec<(String, String)> {
    command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(clap::Command::get_arguments))
        .filter_map(|arg| Some((arg.get_id().to_string(), arg.get_env()?.to_string_lossy().into_owned())))
        .collect()
}

/// The arguments whose values `--help` must not show: those marked with `hide_env_values`.
fn secrets(command: &clap::Command) -> Vec<(String, String)> {
    command
        .get_arguments()
        .filter(|arg| arg.is_hide_env_values_set())
        .filter_map(|arg| Some((arg.get_id().to_string(), arg.get_env()?.to_string_lossy().into_owned())))
        .collect()
}

/// A setting that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one who connects with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self(value.to_owned()))
    }
}

/// Reads `250ms`, `2s`, `5m`, `24h` and `7d`.
///
/// # Errors
/// A sentence that shows what would be right.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("'{text}' is no duration; write 250ms, 2s, 5m, 24h or 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let millis = match &text[split..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(std::time::Duration::from_millis).ok_or_else(wrong)
}

/// Reads the time between two times of something that happens again and again: not zero.
///
/// # Errors
/// A sentence that shows what would be right.
pub fn period(text: &str) -> Result<std::time::Duration, String> {
    let period = duration(text)?;
    if period.is_zero() { Err(format!("'{text}': it would happen without a pause; at least 1ms")) } else { Ok(period) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    struct Example {
        /// How often.
        #[arg(long, env = "CHAT_SYNC_EXAMPLE_EVERY", default_value = "2s", value_parser = duration)]
        every: std::time::Duration,
        /// Where.
        #[arg(long, env = "EXAMPLE_URL", hide_env_values = true)]
        url: Secret,
    }

    fn read(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Example, clap::Error> {
        let arguments = std::iter::once("example").chain(arguments.iter().copied()).map(OsString::from).collect();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load_from(arguments, environment)
    }

    #[test]
    fn an_unknown_variable_refuses_to_start_and_is_named() {
        let error = read(&[("CHAT_SYNC_EXAMPLE_EVRY", "3s")], &["--url", "x"]).unwrap_err().to_string();
        assert!(error.contains("CHAT_SYNC_EXAMPLE_EVRY") && error.contains("CHAT_SYNC_EXAMPLE_EVERY"), "{error}");
        let others = [("OTHER", "3s"), ("CHAT_SYNC_TEST_KAFKA", ""), ("CHAT_SYNC_KAFKA", "a neighbour's")];
        assert!(read(&others, &["--url", "x"]).is_ok());
    }

    #[test]
    fn an_unreadable_value_refuses_to_start_and_is_named() {
        let error = read(&[], &["--url", "x", "--every", "soon"]).unwrap_err().to_string();
        assert!(error.contains("--every") && error.contains("soon"), "{error}");
    }

    #[test]
    fn a_secret_comes_from_a_file_too_and_is_never_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://u:p@h/d\n").unwrap();
        let path = file.path().to_str().unwrap();
        let example = read(&[("EXAMPLE_URL_FILE", path)], &[]).unwrap();
        assert_eq!(example.url.expose(), "postgres://u:p@h/d");
        assert!(!format!("{example:?}").contains("postgres"));
        let error = read(&[("EXAMPLE_URL_FILE", "/nowhere")], &[]).unwrap_err().to_string();
        assert!(error.contains("EXAMPLE_URL_FILE") && error.contains("/nowhere"), "{error}");
        let both = read(&[("EXAMPLE_URL_FILE", path), ("EXAMPLE_URL", "x")], &[]).unwrap_err().to_string();
        assert!(both.contains("EXAMPLE_URL_FILE"), "{both}");
    }

    #[test]
    fn durations_are_read_with_their_unit_only() {
        assert_eq!(duration("250ms"), Ok(std::time::Duration::from_millis(250)));
        assert_eq!(duration("7d"), Ok(std::time::Duration::from_secs(604_800)));
        for text in ["", "2", "s", "2 s", "-1s", "99999999999999999999s", "1y"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(period("1ms"), Ok(std::time::Duration::from_millis(1)));
        assert!(period("0s").is_err());
    }
}
