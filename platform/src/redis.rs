//! A pool of Redis connections.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use deadpool_redis::redis::{Client, ClientTlsConfig, TlsCertificates};
use deadpool_redis::{Manager, Pool, Runtime, Timeouts};

use crate::config::Secret;
use crate::tls::{self, Files};

/// How Redis is met over TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RedisTls {
    /// With rediss://: whom to believe, as a PEM file; without it, whom the machine believes.
    #[arg(long, env = "CHAT_SYNC_REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
    /// With rediss://: the client's certificate, as a PEM file.
    #[arg(long, env = "CHAT_SYNC_REDIS_CERT")]
    pub redis_cert: Option<PathBuf>,
    /// The client certificate's key.
    #[arg(long, env = "CHAT_SYNC_REDIS_KEY")]
    pub redis_key: Option<PathBuf>,
}

impl RedisTls {
    fn certificates(&self) -> anyhow::Result<Option<TlsCertificates>> {
        let names = ["CHAT_SYNC_REDIS_CERT", "CHAT_SYNC_REDIS_KEY"];
        let identity = Files::both(names, self.redis_cert.clone(), self.redis_key.clone())?;
        let client_tls = identity.map(|Files { certificate, key }| {
            Ok::<_, anyhow::Error>(ClientTlsConfig {
                client_cert: tls::read(&certificate)?,
                client_key: tls::read(&key)?,
            })
        });
        let root_cert = self.redis_ca.as_deref().map(tls::read).transpose().context("CHAT_SYNC_REDIS_CA")?;
        let certificates = TlsCertificates { client_tls: client_tls.transpose()?, root_cert };
        let given = certificates.client_tls.is_some() || certificates.root_cert.is_some();
        Ok(given.then_some(certificates))
    }
}

/// A pool that connects when it is first used.
///
/// # Errors
/// If the URL or a file cannot be read; the message names no secret.
pub fn pool(url: &Secret, tls: &RedisTls, connections: usize, deadline: Duration) -> anyhow::Result<Pool> {
    tls::provide();
    let wrong = |_| anyhow::anyhow!("REDIS_URL is no redis:// or rediss:// URL");
    let client = match tls.certificates()? {
        None => Client::open(url.expose()).map_err(wrong)?,
        Some(_) if !url.expose().starts_with("rediss://") => {
            anyhow::bail!("CHAT_SYNC_REDIS_CA, _CERT and _KEY are for rediss:// URLs; REDIS_URL is none")
        }
        Some(certificates) => Client::build_with_tls(url.expose(), certificates)
            .map_err(|error| anyhow::anyhow!("Redis over TLS: {error}"))?,
    };
    let manager = Manager::new(client.get_connection_info().clone())?;
    let timeouts = Timeouts { wait: Some(deadline), create: Some(deadline), recycle: Some(deadline) };
    Ok(Pool::builder(manager).max_size(connections).timeouts(timeouts).runtime(Runtime::Tokio1).build()?)
}
