//! Tokens: signed ones (JWT), and those that a file lists.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use platform::config::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{By, Chats, Refusal, Role, Viewer};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// A secret for HS256 has at least the hash's length: RFC 7518, section 3.2.
const MIN_SECRET: usize = 32;

/// Which tokens are good.
#[derive(Debug)]
pub struct Tokens {
    signed: Option<Signed>,
    listed: Option<Mutex<Listed>>,
}

impl Tokens {
    /// # Errors
    /// If neither is given, or the file cannot be read.
    pub fn new(file: Option<PathBuf>, signed: Option<Signed>) -> anyhow::Result<Self> {
        ensure!(
            file.is_some() || signed.is_some(),
            "token needs CHAT_SYNC_AUTH_TOKENS (a file), CHAT_SYNC_AUTH_JWT_KEY, or both"
        );
        let listed = file.map(Listed::read).transpose()?.map(Mutex::new);
        Ok(Self { signed, listed })
    }

    pub(super) fn admit(&self, token: &str) -> Result<Viewer, Refusal> {
        let sha256 = hex(&Sha256::digest(token));
        if let Some(viewer) = self.listed(&sha256) {
            return Ok(viewer);
        }
        let signed = self.signed.as_ref().ok_or(Refusal::BadToken)?;
        signed.admit(token).map_err(|error| {
            tracing::info!(%error, "a token is refused");
            Refusal::BadToken
        })
    }

    /// Whom the file lists under this digest now.
    pub(super) fn listed(&self, sha256: &str) -> Option<Viewer> {
        let mut listed = self.listed.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        listed.look();
        listed
            .viewers
            .get(sha256)
            .filter(|(_, until)| until.is_none_or(|until| until > Timestamp::now()))
            .map(|(viewer, _)| viewer.clone())
    }
}

/// What signed tokens are checked with.
pub struct Signed {
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since the Unix epoch.
    exp: u64,
    chats: Chats,
    #[serde(default)]
    role: Role,
}

impl Signed {
    /// # Errors
    /// If the key is neither a public one nor a secret that is long enough; it is not printed.
    pub fn new(key: &Secret, issuer: Option<&str>, audience: Option<&str>) -> anyhow::Result<Self> {
        let (key, algorithms) = decoding_key(key.expose())?;
        // What the token says of its algorithm chooses among these only: none is not one of them.
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms;
        validation.validate_nbf = true;
        validation.validate_aud = audience.is_some();
        validation.set_required_spec_claims(&["exp", "sub"]);
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        // Both clocks may be a little wrong; a minute is what the library takes.
        Ok(Self { key, validation })
    }

    fn admit(&self, token: &str) -> Result<Viewer, jsonwebtoken::errors::Error> {
        let Claims { sub, exp, chats, role } = decode(token, &self.key, &self.validation)?.claims;
        let until = exp.saturating_add(self.validation.leeway);
        Ok(Viewer { name: sub, role, chats, by: By::Signed { until } })
    }
}

fn decoding_key(key: &str) -> anyhow::Result<(DecodingKey, Vec<Algorithm>)> {
    if !key.contains("-----BEGIN") {
        ensure!(
            key.len() >= MIN_SECRET,
            "CHAT_SYNC_AUTH_JWT_KEY is neither a public key as PEM nor a secret of at least {MIN_SECRET} bytes"
        );
        ensure!(
            !is_public(key),
            "CHAT_SYNC_AUTH_JWT_KEY looks like a public key, which everybody may know; write it as PEM"
        );
        return Ok((DecodingKey::from_secret(key.as_bytes()), vec![Algorithm::HS256]));
    }
    if key.contains("PRIVATE KEY") {
        bail!("CHAT_SYNC_AUTH_JWT_KEY is a private key; the public one is enough");
    }
    let key = key.as_bytes();
    let rsa = || DecodingKey::from_rsa_pem(key).map(|key| (key, vec![Algorithm::RS256, Algorithm::PS256]));
    let ec = || DecodingKey::from_ec_pem(key).map(|key| (key, vec![Algorithm::ES256]));
    let ed = || DecodingKey::from_ed_pem(key).map(|key| (key, vec![Algorithm::EdDSA]));
    rsa().or_else(|_| ec()).or_else(|_| ed()).context("CHAT_SYNC_AUTH_JWT_KEY: no public key for RS256, ES256 or EdDSA")
}

/// Whether it is a public key in another form than PEM: DER in base64, JSON (JWK), or that of ssh.
fn is_public(key: &str) -> bool {
    let der = STANDARD.decode(key).is_ok_and(|bytes| bytes.first() == Some(&0x30) && bytes.len() > 40);
    der || key.starts_with("ssh-") || key.starts_with("ecdsa-") || key.trim_start().starts_with('{')
}

/// The file's tokens, by their digests: a copy of the file lets nobody in.
#[derive(Debug)]
struct Listed {
    file: PathBuf,
    /// When it was changed, as it was read last.
    changed: Option<SystemTime>,
    looked: Instant,
    viewers: HashMap<String, (Viewer, Option<Timestamp>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    /// Of the token, in hex.
    sha256: String,
    chats: Chats,
    #[serde(default)]
    role: Role,
    until: Option<Timestamp>,
}

impl Listed {
    fn read(file: PathBuf) -> anyhow::Result<Self> {
        // Before it is read: what is written meanwhile is another change.
        let changed = changed(&file);
        let viewers = viewers(&file)?;
        Ok(Self { changed, file, looked: Instant::now(), viewers })
    }

    /// Reads the file again if it has changed. One that cannot be read changes nothing.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let now = changed(&self.file);
        if now == self.changed {
            return;
        }
        match viewers(&self.file) {
            Ok(viewers) => {
                tracing::info!(file = %self.file.display(), tokens = viewers.len(), "tokens are read again");
                (self.viewers, self.changed) = (viewers, now);
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "the tokens stay what they were"),
        }
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn viewers(file: &Path) -> anyhow::Result<HashMap<String, (Viewer, Option<Timestamp>)>> {
    let wrong = || format!("CHAT_SYNC_AUTH_TOKENS, {}", file.display());
    let lines: Vec<Line> =
        serde_json::from_str(&std::fs::read_to_string(file).with_context(wrong)?).with_context(wrong)?;
    let mut viewers = HashMap::new();
    for Line { name, sha256, chats, role, until } in lines {
        let sha256 = sha256.to_ascii_lowercase();
        let is_one = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
        ensure!(is_one, "{}: sha256 of {name} is not 64 hex digits", wrong());
        let viewer = Viewer { name, role, chats, by: By::Listed { sha256: sha256.clone() } };
        ensure!(viewers.insert(sha256, (viewer, until)).is_none(), "{}: one token is listed twice", wrong());
    }
    Ok(viewers)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
