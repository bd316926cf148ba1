//! How Kafka is reached: in the clear, or over TLS.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use rdkafka::config::ClientConfig;

use super::kafka::client;
use crate::tls::{self, Files};

/// What is before the brokers that are met over TLS.
const TLS: &str = "ssl://";

/// Where Kafka is, and whom to believe there. Before or behind a subcommand alike, where there is one.
#[derive(Debug, Clone, clap::Args)]
pub struct KafkaSettings {
    /// Kafka's brokers, as `host:port`, separated by commas; over TLS as `ssl://host:port,host:port`.
    #[arg(long, env = "CHAT_SYNC_KAFKA", default_value = "127.0.0.1:9092", global = true)]
    pub kafka: String,
    /// With ssl://: whom to believe, as a PEM file; without it, whom the machine believes.
    #[arg(long, env = "CHAT_SYNC_KAFKA_CA", global = true)]
    pub kafka_ca: Option<PathBuf>,
    /// With ssl://: the client's certificate, as a PEM file.
    #[arg(long, env = "CHAT_SYNC_KAFKA_CERT", global = true)]
    pub kafka_cert: Option<PathBuf>,
    /// The client certificate's key.
    #[arg(long, env = "CHAT_SYNC_KAFKA_KEY", global = true)]
    pub kafka_key: Option<PathBuf>,
}

impl KafkaSettings {
    /// What every client of this cluster begins with.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong.
    pub(super) fn client(&self) -> anyhow::Result<ClientConfig> {
        let names = ["CHAT_SYNC_KAFKA_CERT", "CHAT_SYNC_KAFKA_KEY"];
        let identity = Files::both(names, self.kafka_cert.clone(), self.kafka_key.clone())?;
        let Some(brokers) = self.kafka.strip_prefix(TLS) else {
            ensure!(!self.kafka.contains("://"), "CHAT_SYNC_KAFKA is host:port,host:port or ssl://host:port,host:port");
            let given = self.kafka_ca.is_some() || identity.is_some();
            ensure!(!given, "CHAT_SYNC_KAFKA_CA, _CERT and _KEY are for ssl:// brokers; CHAT_SYNC_KAFKA names none");
            return Ok(client(&self.kafka));
        };
        if !cfg!(feature = "kafka-tls") {
            bail!(
                "CHAT_SYNC_KAFKA: this program was built without TLS to Kafka; build it with --features platform/kafka-tls"
            );
        }
        let mut config = client(brokers);
        // The name in the certificate is the broker's: librdkafka's default, said for whoever reads this.
        config.set("security.protocol", "ssl").set("ssl.endpoint.identification.algorithm", "https");
        // Read here too: librdkafka does not say which of its files it cannot read.
        if let Some(ca) = &self.kafka_ca {
            tls::read(ca)?;
            config.set("ssl.ca.location", ca.display().to_string());
        } else {
            // The paths that were built in are another machine's.
            config.set("ssl.ca.location", "probe");
        }
        if let Some(Files { certificate, key }) = identity {
            tls::read(&certificate)?;
            tls::read(&key)?;
            config.set("ssl.certificate.location", certificate.display().to_string());
            config.set("ssl.key.location", key.display().to_string());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kafka: &str, ca: Option<&str>, certificate: Option<&str>) -> String {
        let settings = KafkaSettings {
            kafka: kafka.to_owned(),
            kafka_ca: ca.map(PathBuf::from),
            kafka_cert: certificate.map(PathBuf::from),
            kafka_key: None,
        };
        settings.client().unwrap_err().to_string()
    }

    #[test]
    fn what_protects_nothing_is_refused() {
        assert!(refused("kafka:9092", Some("ca.pem"), None).contains("ssl:// brokers"));
        assert!(refused("ssl://kafka:9093", None, Some("me.pem")).contains("CHAT_SYNC_KAFKA_CERT needs"));
        assert!(refused("https://kafka:9093", None, None).contains("CHAT_SYNC_KAFKA is host:port"));
        let unread = refused("ssl://kafka:9093", Some("/nowhere/ca.pem"), None);
        assert!(unread.contains(if cfg!(feature = "kafka-tls") { "/nowhere/ca.pem" } else { "built without TLS" }));
    }
}
