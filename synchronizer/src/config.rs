//! The synchronizer's settings.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use platform::config::{Secret, duration, period};
use platform::event_log::kafka_settings::KafkaSettings;
use platform::leadership::{Leadership, Lease, LeaseSettings};
use platform::lifecycle::{Parts, Stop};
use platform::regions::{self, Region};

use crate::peers::BROKEN;
use crate::turns::Rules;

/// Polls the source and appends its changes to the log.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "synchronizer", version)]
pub struct Config {
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// The copy's database, as postgres://user:password@host:port/database; only read, to compare with the source.
    /// Several nodes as host:port,host:port: the first that answers. Also from the file that DATABASE_URL_FILE names.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "CHAT_SYNC_SYNCHRONIZER_LISTEN", default_value = "127.0.0.1:30003")]
    pub listen: SocketAddr,
    /// The Kubernetes Lease that elects the leader; without it, this process always leads.
    #[arg(long, env = "CHAT_SYNC_LEASE")]
    pub lease: Option<String>,
    /// The Lease's namespace.
    #[arg(long, env = "CHAT_SYNC_LEASE_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// How long a lease lasts without renewal, in whole seconds.
    #[arg(long, env = "CHAT_SYNC_LEASE_TTL", default_value = "3s", value_parser = whole_seconds)]
    pub lease_ttl: Duration,
    /// How often the lease is renewed or asked for.
    #[arg(long, env = "CHAT_SYNC_LEASE_RENEW", default_value = "1s", value_parser = period)]
    pub lease_renew: Duration,
    /// What this candidate is called; a random part is added. In Kubernetes: the pod's name.
    #[arg(long, env = "CHAT_SYNC_HOLDER", default_value = "synchronizer")]
    pub holder: String,
    /// What is logged, as for `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "CHAT_SYNC_LOG", default_value = "info")]
    pub log: String,
}

/// What polling depends on, wherever the log is.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The source's base URL.
    #[arg(long, env = "CHAT_SYNC_SOURCE_URL", default_value = "http://127.0.0.1:30001")]
    pub source_url: String,
    /// With https://: whom to believe beside those that the machine believes, as a PEM file.
    #[arg(long, env = "CHAT_SYNC_SOURCE_CA")]
    pub source_ca: Option<PathBuf>,
    /// With https://: the client's certificate, as a PEM file.
    #[arg(long, env = "CHAT_SYNC_SOURCE_CERT")]
    pub source_cert: Option<PathBuf>,
    /// The client certificate's key.
    #[arg(long, env = "CHAT_SYNC_SOURCE_KEY")]
    pub source_key: Option<PathBuf>,
    /// What the source is called in records and checkpoints.
    #[arg(long, env = "CHAT_SYNC_SOURCE", default_value = "external")]
    pub source: String,
    /// The region's name.
    #[arg(long, env = "CHAT_SYNC_REGION", default_value = "a")]
    pub region: String,
    #[command(flatten)]
    pub turns: TurnSettings,
    /// What is added to every topic's name, to keep installations apart on one cluster.
    #[arg(long, env = "CHAT_SYNC_TOPIC_SUFFIX", default_value = "")]
    pub topic_suffix: String,
    /// How long the source may keep a poll open when there is nothing new. It bounds how old the
    /// knowledge "there is nothing new" may get.
    #[arg(long, env = "CHAT_SYNC_POLL_WAIT", default_value = "1s", value_parser = whole_seconds)]
    pub poll_wait: Duration,
    /// How many changes are asked for at once.
    #[arg(long, env = "CHAT_SYNC_POLL_LIMIT", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub poll_limit: u32,
    /// How often markers and the checkpoint are written.
    #[arg(long, env = "CHAT_SYNC_MARKER_EVERY", default_value = "1s", value_parser = period)]
    pub marker_every: Duration,
    /// How many requests a second the source gets at most, of all kinds together.
    #[arg(long, env = "CHAT_SYNC_SOURCE_BUDGET", default_value = "200")]
    pub source_budget: NonZeroU32,
    /// How far back a new leader begins, and what is read again now and then: rows may appear late, behind the cursor,
    /// by so much.
    #[arg(long, env = "CHAT_SYNC_OVERLAP", default_value = "60s", value_parser = duration)]
    pub overlap: Duration,
    /// How often that is read again.
    #[arg(long, env = "CHAT_SYNC_READ_AGAIN_EVERY", default_value = "15s", value_parser = period)]
    pub read_again_every: Duration,
    /// How long after one slow comparison with the whole source the next one begins.
    #[arg(long, env = "CHAT_SYNC_RECONCILE_EVERY", default_value = "5m", value_parser = period)]
    pub reconcile_every: Duration,
    /// How many requests a second a slow comparison takes, within the budget of all.
    #[arg(long, env = "CHAT_SYNC_RECONCILE_BUDGET", default_value = "5")]
    pub reconcile_budget: NonZeroU32,
    /// How often it is said what the copy holds, for the other regions to compare with theirs.
    #[arg(long, env = "CHAT_SYNC_COMPARE_REGIONS_EVERY", default_value = "5m", value_parser = period)]
    pub compare_regions_every: Duration,
}

/// The other regions, and when this one polls instead of them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TurnSettings {
    /// All regions, as a=https://a.example.org,b=https://b.example.org, this one among them; without it, it is the only one.
    #[arg(long, env = "CHAT_SYNC_REGIONS", value_delimiter = ',')]
    pub regions: Vec<Region>,
    /// The region that polls whenever it can; without it, whoever polls goes on.
    #[arg(long, env = "CHAT_SYNC_PREFERRED_REGION")]
    pub preferred_region: Option<String>,
    /// How long nothing new may come of the region that polls before this one does.
    #[arg(long, env = "CHAT_SYNC_TAKE_OVER_AFTER", default_value = "20s", value_parser = duration)]
    pub take_over_after: Duration,
    /// Where two regions poll: how long one must hear the other before it gives way.
    #[arg(long, env = "CHAT_SYNC_GIVE_WAY_AFTER", default_value = "10s", value_parser = duration)]
    pub give_way_after: Duration,
    /// How long the preferred region listens to another that polls before it takes its place.
    #[arg(long, env = "CHAT_SYNC_COME_BACK_AFTER", default_value = "30s", value_parser = duration)]
    pub come_back_after: Duration,
}

impl Settings {
    /// When this region polls.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong.
    pub fn rules(&self) -> anyhow::Result<Rules> {
        let turns = &self.turns;
        let others = regions::others(&turns.regions, &self.region)?;
        if let Some(preferred) = &turns.preferred_region {
            let known = *preferred == self.region || others.contains(preferred);
            anyhow::ensure!(known, "CHAT_SYNC_PREFERRED_REGION is {preferred}, which CHAT_SYNC_REGIONS does not list");
        }
        // Markers tell that a region lives: they must not look like pauses.
        anyhow::ensure!(
            others.is_empty() || 2 * self.marker_every <= BROKEN,
            "CHAT_SYNC_MARKER_EVERY is {:?}; where there are other regions, it is at most {:?}",
            self.marker_every,
            BROKEN / 2
        );
        Ok(Rules {
            region: self.region.clone(),
            others,
            preferred: turns.preferred_region.clone(),
            take_over_after: turns.take_over_after,
            give_way_after: turns.give_way_after,
            come_back_after: turns.come_back_after,
        })
    }

    /// The other regions' names.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.turns.regions.iter().map(|region| region.name.as_str()).filter(|name| *name != self.region)
    }

    /// What the other regions' topics of this name are called here.
    pub fn mirrored<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = String> + 'a {
        self.others().map(move |region| mirrored(region, topic))
    }

    /// How long a cursor is remembered: a row that comes as late as may be is still there for a reading that begins after
    /// it, and for that to reach it.
    pub fn remembered_for(&self) -> Duration {
        if self.overlap.is_zero() { Duration::ZERO } else { self.overlap + 2 * self.read_again_every }
    }
}

/// What a region's topic of this name is called in the others: MirrorMaker's default names.
pub fn mirrored(region: &str, topic: &str) -> String {
    format!("{region}.{topic}")
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    if value.subsec_nanos() == 0 && value.as_secs() >= 1 {
        Ok(value)
    } else {
        Err(format!("'{text}': whole seconds, at least 1s"))
    }
}

impl Config {
    /// By the lease if one is named, else always the leader.
    ///
    /// # Errors
    /// If there is no way to reach the Kubernetes API.
    pub async fn leadership(&self, parts: &mut Parts, stop: &Stop) -> anyhow::Result<Leadership> {
        let Some(name) = &self.lease else { return Ok(Leadership::always()) };
        let client = kube::Client::try_default().await.context("--lease needs a Kubernetes API")?;
        let settings = LeaseSettings {
            namespace: self.lease_namespace.clone(),
            name: name.clone(),
            holder: self.holder.clone(),
            ttl: self.lease_ttl,
            renew_every: self.lease_renew,
            call: Duration::from_secs(1),
            exclusive: false,
        };
        let (lease, leadership) = Lease::new(client, settings);
        tracing::info!(identity = lease.identity(), lease = name, "competing");
        parts.spawn("lease", lease.run(stop.clone()));
        Ok(leadership)
    }
}
