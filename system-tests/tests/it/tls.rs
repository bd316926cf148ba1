//! TLS on every way that speaks it, with certificates made on the spot: whom a server convinces, and whom not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use deadpool_redis::redis::cmd;
use platform::config::Secret;
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::event_log::kafka_settings::KafkaSettings;
use platform::eventually;
use platform::redis::RedisTls;
use platform::testing::{postgres_database, server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use reqwest::{Certificate, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use synchronizer::source::{Outcome, Source};
use synchronizer::vendor::Vendor;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_redis::OwnRedis;
use system_tests::pipeline::{Options, Pipeline, host_and_port};
use system_tests::process::free_port;
use system_tests::reader::Reader;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Somebody who signs certificates, and a folder for what is signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        platform::tls::provide();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key, in these files.
    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, certificate: &Path, key: &Path) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        // Not the authority's own: who signs for itself is nobody.
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.extended_key_usages = vec![usage];
        let pair = KeyPair::generate().unwrap();
        std::fs::write(certificate, params.signed_by(&pair, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
    }

    fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        let file = |suffix| self.folder.path().join(format!("{name}.{suffix}"));
        (file("pem"), file("key"))
    }

    fn server(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.files("server");
        self.sign(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, &certificate, &key);
        (certificate, key)
    }

    fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.files("client");
        self.sign(&["chat-sync"], ExtendedKeyUsagePurpose::ClientAuth, &certificate, &key);
        (certificate, key)
    }

    /// A server that wants a certificate of this authority.
    fn demanding(&self) -> ServerConfig {
        let (certificate, key) = self.server();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// One that believes this authority and no other.
fn believing(authority: &Authority) -> Client {
    let ca = Certificate::from_pem(&std::fs::read(authority.ca()).unwrap()).unwrap();
    Client::builder().tls_certs_only([ca]).timeout(Duration::from_secs(5)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_vendor_are_served_over_tls_and_a_certificate_is_renewed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.server();
    let vendor = format!("127.0.0.1:{}", free_port());
    let options = Options {
        external: vec![("CHAT_SYNC_EXTERNAL_TLS_CERT", text(&certificate)), ("CHAT_SYNC_EXTERNAL_TLS_KEY", text(&key))],
        synchronizer: vec![
            ("CHAT_SYNC_SOURCE_URL", format!("https://{vendor}")),
            ("CHAT_SYNC_SOURCE_CA", text(&authority.ca())),
        ],
        internal: vec![("CHAT_SYNC_INTERNAL_TLS_CERT", text(&certificate)), ("CHAT_SYNC_INTERNAL_TLS_KEY", text(&key))],
        vendor_address: Some(vendor.clone()),
        ..Options::default()
    };
    let Some(pipeline) = Pipeline::start(options).await else { return };
    let (client, stranger) = (believing(&authority), believing(&other));
    let chats = format!("https://{vendor}/api/chats");
    let created = async || {
        let answer = client.post(&chats).json(&json!({ "title": "Sealed" })).send().await.ok()?;
        answer.json::<Value>().await.ok()?["id"].as_str().map(str::to_owned)
    };
    let chat = eventually!(created().await, "the vendor takes a chat over TLS");
    let copy = format!("https://{}/api/chats", pipeline.internal_address);
    let shown = async |client: &Client| {
        let answer = client.get(&copy).send().await.ok()?;
        answer.text().await.ok()
    };
    eventually!(shown(&client).await.is_some_and(|chats| chats.contains(&chat)), "the copy shows it over TLS");
    assert!(shown(&stranger).await.is_none(), "who does not believe the authority gets nothing");
    let plain = system_tests::http::get(copy.replace("https", "http")).await;
    assert!(plain.is_err() || !plain.unwrap().status().is_success(), "nothing goes in the clear");
    // Another authority has signed the next one.
    other.sign(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, &certificate, &key);
    eventually!(shown(&believing(&other)).await.is_some(), "the new certificate is shown");
    assert!(shown(&believing(&authority)).await.is_none(), "the old one is not");
}

fn settings(url: String) -> synchronizer::Settings {
    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        settings: synchronizer::Settings,
    }
    let mut settings = <Parsed as clap::Parser>::parse_from(["test", "--source-url", &url]).settings;
    settings.poll_wait = Duration::from_secs(1);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_may_want_a_certificate() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let page = json!({ "generation": 1, "changes": [], "next": "here", "more": false });
    let router = Router::new().fallback(get(async move || axum::Json(page)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = RustlsConfig::from_config(Arc::new(authority.demanding()));
    tokio::spawn(axum_server::from_tcp_rustls(listener, config).unwrap().serve(router.into_make_service()));
    let polled = async |ca: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>| {
        let (source_cert, source_key) = identity.unzip();
        let settings = synchronizer::Settings { source_ca: ca, source_cert, source_key, ..settings(url.clone()) };
        Vendor::new(&settings).unwrap().poll(None, Duration::ZERO).await
    };
    let (ca, identity) = (Some(authority.ca()), Some(authority.client()));
    eventually!(
        matches!(polled(ca.clone(), identity.clone()).await, Outcome::Answered(page) if page.next == "here"),
        "with the certificate that it wants"
    );
    for (what, ca, identity) in [
        ("no certificate", ca.clone(), None),
        ("a certificate of somebody else", ca, Some(foreign.client())),
        ("nobody to believe", None, identity),
    ] {
        let answer = polled(ca, identity).await;
        assert!(matches!(answer, Outcome::Unavailable(_)), "{what}: {}", answer.name());
    }
    let half = synchronizer::Settings { source_cert: Some(authority.ca()), ..settings(url) };
    let error = Vendor::new(&half).err().unwrap().to_string();
    assert!(error.contains("CHAT_SYNC_SOURCE_CERT needs CHAT_SYNC_SOURCE_KEY"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_want_a_certificate() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let ((certificate, key), port) = (authority.server(), free_port());
    let arguments = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", text(&certificate)),
        ("--tls-key-file", text(&key)),
        ("--tls-ca-cert-file", text(&authority.ca())),
        ("--tls-auth-clients", "yes".to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let Some(_redis) = OwnRedis::start_with(arguments, Vec::new()).await else { return };
    let asked = async |ca: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>| {
        let (redis_cert, redis_key) = identity.unzip();
        let tls = RedisTls { redis_ca: ca, redis_cert, redis_key };
        let url = Secret::new(format!("rediss://127.0.0.1:{port}"));
        let pool = platform::redis::pool(&url, &tls, 1, Duration::from_secs(5)).unwrap();
        let mut connection = pool.get().await.ok()?;
        cmd("PING").query_async::<String>(&mut connection).await.ok()
    };
    let (ca, identity) = (Some(authority.ca()), Some(authority.client()));
    eventually!(asked(ca.clone(), identity.clone()).await.as_deref() == Some("PONG"), "with the one that it wants");
    assert_eq!(asked(ca.clone(), None).await, None, "without a certificate");
    assert_eq!(asked(ca, Some(foreign.client())).await, None, "with somebody else's");
    assert_eq!(asked(Some(foreign.ca()), identity.clone()).await, None, "whom it does not believe");
    let tls = RedisTls { redis_ca: Some(authority.ca()), ..RedisTls::default() };
    let plain = platform::redis::pool(&Secret::new("redis://127.0.0.1:1"), &tls, 1, Duration::from_secs(1));
    assert!(plain.unwrap_err().to_string().contains("rediss://"), "a setting that protects nothing is refused");
}

/// Speaks TLS as Postgres does, and passes on what it hears to the real one: the one of the tests is built without.
async fn postgres_over_tls(config: ServerConfig, to: String) -> u16 {
    const ASKS_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, acceptor) = (listener.local_addr().unwrap().port(), TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                let mut asked = [0; 8];
                client.read_exact(&mut asked).await.ok()?;
                if asked != ASKS_FOR_TLS {
                    return None;
                }
                client.write_all(b"S").await.ok()?;
                let mut client = acceptor.accept(client).await.ok()?;
                let mut server = TcpStream::connect(to).await.ok()?;
                copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_may_want_a_certificate() {
    if server("CHAT_SYNC_TEST_POSTGRES").is_none() {
        return;
    }
    let (authority, foreign) = (Authority::new(), Authority::new());
    let Some(database) = postgres_database().await else { return };
    let plain = database.expose().to_owned();
    let port = postgres_over_tls(authority.demanding(), host_and_port(&plain).to_owned()).await;
    let url = plain.replacen(host_and_port(&plain), &format!("127.0.0.1:{port}"), 1);
    let asked = async |mode: &str, ca: &Path, identity: Option<(PathBuf, PathBuf)>| {
        let mut url = format!("{url}?sslmode={mode}&sslrootcert={}", ca.display());
        if let Some((certificate, key)) = identity {
            url += &format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
        }
        let pool = platform::postgres::pool(&Secret::new(url), 1, true).unwrap();
        sqlx::query_scalar::<_, i32>("SELECT 7").fetch_one(&pool).await.ok()
    };
    let identity = Some(authority.client());
    eventually!(
        asked("verify-full", &authority.ca(), identity.clone()).await == Some(7),
        "with the certificate that it wants"
    );
    assert_eq!(asked("verify-full", &authority.ca(), None).await, None, "without a certificate");
    assert_eq!(asked("verify-full", &authority.ca(), Some(foreign.client())).await, None, "with somebody else's");
    assert_eq!(asked("verify-full", &foreign.ca(), identity).await, None, "whom it does not believe");
    assert_eq!(asked("disable", &authority.ca(), None).await, None, "in the clear");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_may_want_a_certificate() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.server();
    let Some((_kafka, address)) = OwnKafka::over_tls(&certificate, &key, &authority.ca()).await else { return };
    let reached = |ca: &Path, identity: Option<(PathBuf, PathBuf)>| {
        let (kafka_cert, kafka_key) = identity.unzip();
        KafkaSettings { kafka: format!("ssl://{address}"), kafka_ca: Some(ca.to_owned()), kafka_cert, kafka_key }
    };
    let asked = async |settings: KafkaSettings| {
        let kafka = Kafka::reached_by(&settings).unwrap();
        kafka.partitions("nothing").await.ok()
    };
    let identity = Some(authority.client());
    let ours = reached(&authority.ca(), identity.clone());
    assert_eq!(eventually!(asked(ours.clone()).await, "Kafka answers over TLS"), None, "there is no such topic");
    assert!(asked(reached(&authority.ca(), None)).await.is_none(), "without a certificate");
    assert!(asked(reached(&authority.ca(), Some(foreign.client()))).await.is_none(), "with somebody else's");
    assert!(asked(reached(&foreign.ca(), identity)).await.is_none(), "whom it does not believe");
    assert!(asked(KafkaSettings { kafka: address, ..plain() }).await.is_none(), "in the clear");

    let options = Options { kafka: Some(ours.kafka.clone()), everywhere: over(&ours), ..Options::default() };
    let Some(pipeline) = Pipeline::start(options).await else { return };
    pipeline.ready().await;
    let (vendor, reader) = (pipeline.vendor(), Reader::watch(&pipeline.internal_address));
    let chat = vendor.create_chat("Sealed").await;
    let id = vendor.post(&chat, "through the log over TLS").await;
    eventually!(reader.text(&chat, &id).is_some(), "all four speak TLS to Kafka");
}

fn plain() -> KafkaSettings {
    KafkaSettings { kafka: String::new(), kafka_ca: None, kafka_cert: None, kafka_key: None }
}

/// The settings of a service that reaches Kafka so.
fn over(settings: &KafkaSettings) -> Vec<(&'static str, String)> {
    let file = |file: &Option<PathBuf>| text(file.as_ref().unwrap());
    vec![
        ("CHAT_SYNC_KAFKA_CA", file(&settings.kafka_ca)),
        ("CHAT_SYNC_KAFKA_CERT", file(&settings.kafka_cert)),
        ("CHAT_SYNC_KAFKA_KEY", file(&settings.kafka_key)),
    ]
}
