//! The settings of who may look, and what they come to.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use ipnet::IpNet;
use platform::config::Secret;
use serde::Serialize;

use super::Access;
use super::tokens::{Signed, Tokens};
use super::trusted::Trusted;

/// How it is decided who may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Whoever reaches the page.
    Off,
    /// Whoever shows a token: a signed one (JWT), or one of a file.
    Token,
    /// Whomever a proxy in front names in a header.
    TrustedHeader,
}

/// Who may look.
#[derive(Debug, Clone, clap::Args)]
pub struct AccessSettings {
    /// Who may look. On a loopback address `off` is the default; on any other it must be said.
    #[arg(long, env = "CHAT_SYNC_AUTH", value_enum)]
    pub auth: Option<Mode>,
    /// With `token`: a JSON file of tokens, [{"name", "sha256", "chats", "role"}]; read again when it changes.
    #[arg(long, env = "CHAT_SYNC_AUTH_TOKENS")]
    pub auth_tokens: Option<PathBuf>,
    /// With `token`: what signed tokens (JWT) are checked with: a public key as PEM (RS256, ES256, EdDSA), or a secret of
    /// at least 32 bytes (HS256). Also from the file that CHAT_SYNC_AUTH_JWT_KEY_FILE names.
    #[arg(long, env = "CHAT_SYNC_AUTH_JWT_KEY", hide_env_values = true, allow_hyphen_values = true)]
    pub auth_jwt_key: Option<Secret>,
    /// Who must have signed them: the claim `iss`.
    #[arg(long, env = "CHAT_SYNC_AUTH_JWT_ISSUER")]
    pub auth_jwt_issuer: Option<String>,
    /// Whom they must be for: the claim `aud`.
    #[arg(long, env = "CHAT_SYNC_AUTH_JWT_AUDIENCE")]
    pub auth_jwt_audience: Option<String>,
    /// With `trusted-header`: the addresses of the proxies that are believed, as 10.0.0.0/8,192.168.1.7/32.
    #[arg(long, env = "CHAT_SYNC_AUTH_PROXIES", value_delimiter = ',')]
    pub auth_proxies: Vec<IpNet>,
    /// With `trusted-header`: the header that holds the user's name; X-Forwarded-User if this is not set.
    #[arg(long, env = "CHAT_SYNC_AUTH_USER_HEADER")]
    pub auth_user_header: Option<String>,
    /// With `trusted-header`: the header that holds the role, `reader` or `operator`; without it all are readers.
    #[arg(long, env = "CHAT_SYNC_AUTH_ROLE_HEADER")]
    pub auth_role_header: Option<String>,
    /// With `trusted-header`: the header that holds the chats, `*` or ids separated by commas; without it all see all.
    #[arg(long, env = "CHAT_SYNC_AUTH_CHATS_HEADER")]
    pub auth_chats_header: Option<String>,
}

impl AccessSettings {
    /// What decides, on this address.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong or missing.
    pub fn access(&self, listen: SocketAddr) -> anyhow::Result<Access> {
        let Some(mode) = self.auth else {
            ensure!(
                listen.ip().is_loopback(),
                "{listen} can be reached from other machines: say who may look with CHAT_SYNC_AUTH (off, token or \
                 trusted-header)"
            );
            self.unused_but_for(Mode::Off)?;
            return Ok(Access::Off);
        };
        self.unused_but_for(mode)?;
        match mode {
            Mode::Off => {
                if !listen.ip().is_loopback() {
                    tracing::warn!(%listen, "whoever reaches this address may read every chat (CHAT_SYNC_AUTH is off)");
                }
                Ok(Access::Off)
            }
            Mode::Token => Ok(Access::Token(Box::new(self.tokens()?))),
            Mode::TrustedHeader => Ok(Access::TrustedHeader(Trusted::new(self)?)),
        }
    }

    fn tokens(&self) -> anyhow::Result<Tokens> {
        let signed = self
            .auth_jwt_key
            .as_ref()
            .map(|key| Signed::new(key, self.auth_jwt_issuer.as_deref(), self.auth_jwt_audience.as_deref()));
        ensure!(
            signed.is_some() || (self.auth_jwt_issuer.is_none() && self.auth_jwt_audience.is_none()),
            "CHAT_SYNC_AUTH_JWT_ISSUER and _AUDIENCE mean nothing without CHAT_SYNC_AUTH_JWT_KEY"
        );
        Tokens::new(self.auth_tokens.clone(), signed.transpose()?)
    }

    /// A setting that does nothing would be taken for one that protects.
    fn unused_but_for(&self, mode: Mode) -> anyhow::Result<()> {
        let token = [
            ("CHAT_SYNC_AUTH_TOKENS", self.auth_tokens.is_some()),
            ("CHAT_SYNC_AUTH_JWT_KEY", self.auth_jwt_key.is_some()),
            ("CHAT_SYNC_AUTH_JWT_ISSUER", self.auth_jwt_issuer.is_some()),
            ("CHAT_SYNC_AUTH_JWT_AUDIENCE", self.auth_jwt_audience.is_some()),
        ];
        let trusted = [
            ("CHAT_SYNC_AUTH_PROXIES", !self.auth_proxies.is_empty()),
            ("CHAT_SYNC_AUTH_USER_HEADER", self.auth_user_header.is_some()),
            ("CHAT_SYNC_AUTH_ROLE_HEADER", self.auth_role_header.is_some()),
            ("CHAT_SYNC_AUTH_CHATS_HEADER", self.auth_chats_header.is_some()),
        ];
        for (settings, of) in [(&token[..], Mode::Token), (&trusted[..], Mode::TrustedHeader)] {
            if let Some((name, _)) = settings.iter().find(|(_, given)| *given && mode != of) {
                bail!("{name} means nothing with CHAT_SYNC_AUTH as it is");
            }
        }
        Ok(())
    }
}
