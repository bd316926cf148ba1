//! TLS, by rustls: what a server shows, whom a client believes. All of it comes from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;

/// How often it is looked whether a server's files have changed.
const LOOK: Duration = Duration::from_secs(1);

/// A certificate, with those that it was signed by, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// Both or neither; `settings` are the names of the two.
    ///
    /// # Errors
    /// If one is given without the other.
    pub fn both(
        settings: [&str; 2],
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> anyhow::Result<Option<Self>> {
        let [of_certificate, of_key] = settings;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => anyhow::bail!("{of_certificate} needs {of_key}"),
            (None, Some(_)) => anyhow::bail!("{of_key} needs {of_certificate}"),
        }
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
    }
}

/// # Errors
/// If the file cannot be read; it names the file.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Chooses who computes, for the whole process; before anything that speaks TLS.
pub fn provide() {
    // A second time changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a server shows, from its files.
///
/// # Errors
/// If they cannot be read, or do not belong together.
pub async fn of_server(files: &Files) -> anyhow::Result<RustlsConfig> {
    Ok(RustlsConfig::from_config(config(files).await?))
}

async fn config(files: &Files) -> anyhow::Result<Arc<ServerConfig>> {
    provide();
    let Files { certificate, key } = files;
    let config = RustlsConfig::from_pem_file(certificate, key)
        .await
        .with_context(|| format!("cannot serve TLS with {} and {}", certificate.display(), key.display()))?;
    let mut config = ServerConfig::clone(&config.get_inner());
    // HTTP/2 has no Host header, which tells a page of ours from another's, and WebSockets need HTTP/1.1 anyway.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Reads the files again whenever they change; connections that are open go on with what they had. Never ends.
pub async fn follow(served: RustlsConfig, files: Files) {
    let mut known = files.changed();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = files.changed();
        if now == known {
            continue;
        }
        match config(&files).await {
            Ok(config) => {
                served.reload_from_config(config);
                tracing::info!(certificate = %files.certificate.display(), "the certificate is read again");
            }
            // One of the two may be new already while the other is not: it is looked at again when that changes.
            Err(error) => {
                tracing::error!(%error, certificate = %files.certificate.display(), "the certificate stays what it was")
            }
        }
        known = now;
    }
}
