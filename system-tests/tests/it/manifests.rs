//! The manifests as they are written. What Kubernetes says of them, `cargo xtask test deployment` asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What all of it may request, so that it fits a laptop: thousandths of a CPU, and MiB.
const MOST_CPU: u64 = 1500;
const MOST_MEMORY: u64 = 5 * 1024;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The manifests of a folder, in order, by their files' names.
fn files(folder: &str) -> BTreeMap<String, String> {
    let found = std::fs::read_dir(root().join("deployment").join(folder)).expect("a folder");
    let files = found.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
    files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, read_to_string(path).expect("text"))
        })
        .collect()
}

fn all() -> Vec<Value> {
    let folders = ["", "10-vendor", "20-region-a", "30-region-b", "40-operators"];
    let texts = folders.iter().flat_map(|folder| files(folder).into_values());
    texts.flat_map(|text| serde_saphyr::from_multiple::<Value>(&text).expect("YAML")).collect()
}

/// Every word `a` is `b`, and the other way round.
fn swapped(text: &str) -> String {
    let parts = text.split_inclusive(|c: char| !c.is_alphanumeric());
    parts
        .map(|part| match (part, part.chars().last().filter(|last| !last.is_alphanumeric())) {
            ("a", _) => "b".to_owned(),
            ("b", _) => "a".to_owned(),
            (_, Some(last)) if part.strip_suffix(last) == Some("a") => format!("b{last}"),
            (_, Some(last)) if part.strip_suffix(last) == Some("b") => format!("a{last}"),
            _ => part.to_owned(),
        })
        .collect()
}

/// What counts of a manifest: no comments; what a Secret holds as it is meant.
fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| match line.rsplit_once(": ") {
        Some((key, value)) if ["password", "replication", "DATABASE_URL", "REDIS_URL"].contains(&key.trim()) => {
            format!("{key}: {}", String::from_utf8(STANDARD.decode(value).expect("base64")).expect("text"))
        }
        _ => line.to_owned(),
    })
}

#[test]
fn region_b_is_region_a_with_the_names_changed() {
    let (a, b) = (files("20-region-a"), files("30-region-b"));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, text) in a {
        // The list of the regions is the same in both, and so is the one port of a node that differs.
        let of_all = |line: &String| !line.contains("CHAT_SYNC_REGIONS");
        let expected =
            lines(&text).filter(of_all).map(|line| swapped(&line).replace("nodePort: 30002", "nodePort: 30012"));
        let found = lines(&b[&name]).filter(of_all);
        for (number, (expected, found)) in expected.zip(found).enumerate() {
            assert_eq!(expected, found, "{name}, line {number} without comments");
        }
        assert_eq!(lines(&text).count(), lines(&b[&name]).count(), "{name}");
    }
}

#[test]
fn mirrors_have_the_settings_that_are_tested() {
    let tested = read_to_string(root().join("xtask/kafka/mirror.properties")).expect("the settings");
    for (folder, source, target) in [("20-region-a", "b", "a"), ("30-region-b", "a", "b")] {
        let brokers = |region: &str| format!("kafka.chat-sync-{region}.svc.cluster.local:9092");
        let expected = tested
            .replace("@source@", source)
            .replace("@target@", target)
            .replace("@source-brokers@", &brokers(source))
            .replace("@target-brokers@", &brokers(target))
            .replace("@topics@", "chat-changes,chat-sync-erasures,chat-sync-digests");
        let manifest = &files(folder)["30-mirror-maker.yaml"];
        let settings = |text: &str| -> Vec<String> {
            let settings = text.lines().map(str::trim).filter(|line| !line.starts_with('#') && line.contains(" = "));
            settings.map(str::to_owned).collect()
        };
        assert_eq!(settings(manifest), settings(&expected), "{folder}");
        // Without it Kafka refuses a session as short as the mirror's.
        assert!(files(folder)["20-kafka.yaml"].contains("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"), "{folder}");
    }
}

/// What runs.
struct Workload {
    /// `namespace/app`.
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    replicas: u64,
    pod: Value,
}

impl Workload {
    fn containers(&self, of: &str) -> impl Iterator<Item = &Value> {
        self.pod[of].as_array().into_iter().flatten()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn labels(of: &Value) -> BTreeMap<String, String> {
    let labels = of["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn workloads() -> Vec<Workload> {
    let all = all().into_iter().filter(|one| one["kind"] == "Deployment" || one["kind"] == "StatefulSet");
    all.map(|one| {
        let namespace = text(&one["metadata"]["namespace"]);
        let spec = &one["spec"];
        Workload {
            name: format!("{namespace}/{}", text(&one["metadata"]["name"])),
            namespace,
            labels: labels(&spec["template"]["metadata"]),
            replicas: spec["replicas"].as_u64().expect("a number of pods"),
            pod: spec["template"]["spec"].clone(),
        }
    })
    .collect()
}

/// `150m` or `1Gi`, in thousandths or MiB.
fn quantity(value: &Value) -> u64 {
    let text = text(value);
    let number = |unit: &str| text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
    number("m").or(number("Mi")).or(number("Gi").map(|gibi| gibi * 1024)).expect("a quantity")
}

/// An engine without a network cannot run the stage that compiles.
#[test]
fn the_dockerfile_compiles_what_the_manifests_run_and_keeps_nothing_else() {
    let dockerfile = read_to_string(root().join("Dockerfile")).expect("the Dockerfile");
    let (compiled, last) = (stage(&dockerfile, "compiled"), dockerfile.rsplit("FROM ").next().expect("a last stage"));
    let toolchain = read_to_string(root().join("rust-toolchain.toml")).expect("the toolchain");
    let release = toolchain.split('"').nth(1).and_then(|channel| channel.rsplit_once('.')).expect("a channel").0;
    assert!(compiled.starts_with(&format!("rust:{release}-")), "{compiled}");
    let workloads = workloads();
    let images: BTreeSet<String> = workloads
        .iter()
        .flat_map(|workload| workload.containers("containers"))
        .filter_map(|container| {
            Some(text(&container["image"]).strip_prefix("chat-sync/")?.split_once(':')?.0.to_owned())
        })
        .collect();
    assert_eq!(images.len(), 4, "{images:?}");
    for service in &images {
        assert!(compiled.contains(&format!("-p {service} ")), "{service} is compiled");
        // The folder that is compiled in is a cache, and no part of the stage.
        assert!(compiled.contains(&format!("target/release/{service} ")), "{service} is taken out of it");
    }
    assert!(compiled.contains("--locked") && compiled.contains("--release"), "{compiled}");
    for cache in ["/usr/local/cargo/registry", "/src/target"] {
        assert!(compiled.contains(&format!("--mount=type=cache,target={cache} ")), "{cache} outlives a build");
    }
    assert!(last.starts_with("gcr.io/distroless/") && last.contains("USER 65532"), "{last}");
    assert!(!last.contains("RUN "), "there is no shell to run it with");
    let members = read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let members = members.lines().find_map(|line| line.strip_prefix("members = [")).expect("members");
    let ignored = read_to_string(root().join(".dockerignore")).expect("what is left out");
    for needed in
        members.split('"').filter(|part| part.starts_with(char::is_alphabetic)).chain(["Cargo.lock", "Cargo.toml"])
    {
        assert!(root().join(needed).exists(), "{needed}");
        assert!(!ignored.lines().any(|line| line == needed), "{needed} is left out, and cargo asks for it");
    }
}

/// The lines of a stage, from its base on.
fn stage<'a>(dockerfile: &'a str, name: &str) -> &'a str {
    let stages =
        dockerfile.split("\nFROM ").filter(|stage| stage.lines().next().is_some_and(|line| line.ends_with(name)));
    stages.into_iter().next().unwrap_or_else(|| panic!("a stage {name}"))
}

#[test]
fn what_is_requested_fits_a_laptop() {
    let (mut cpu, mut memory) = (0, 0);
    for workload in workloads() {
        for container in workload.containers("containers") {
            let requests = &container["resources"]["requests"];
            cpu += workload.replicas * quantity(&requests["cpu"]);
            memory += workload.replicas * quantity(&requests["memory"]);
            assert!(container["resources"]["limits"]["memory"].is_string(), "{}: a limit", workload.name);
        }
    }
    assert!(cpu <= MOST_CPU && memory <= MOST_MEMORY, "{cpu} m, {memory} MiB");
}

#[test]
fn every_pod_is_restricted_ends_in_time_and_is_asked_how_it_is() {
    for workload in workloads() {
        let (name, pod) = (&workload.name, &workload.pod);
        assert_eq!(pod["enableServiceLinks"], false, "{name}");
        let has_a_token = pod["automountServiceAccountToken"] == true;
        assert_eq!(has_a_token, name.ends_with("/synchronizer"), "{name}: only who elects has a token");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        for container in workload.containers("containers").chain(workload.containers("initContainers")) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
            let image = text(&container["image"]);
            if image.starts_with("chat-sync/") {
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                // Long enough for the drain, which takes five seconds.
                assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(20), "{name}");
                assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez", "{name}: it asks no dependency");
                assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz", "{name}");
                assert!(container["startupProbe"].is_object(), "{name}");
            }
        }
    }
}

/// Whether labels are what a selector asks for; one that asks for nothing takes all.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let one_of = |expression: &Value| {
        assert_eq!(expression["operator"], "In");
        let values = expression["values"].as_array().expect("values");
        labels.get(&text(&expression["key"])).is_some_and(|label| values.iter().any(|value| value == label))
    };
    exact.into_iter().all(|(key, value)| labels.get(key).is_some_and(|label| value == label)) && expressions.all(one_of)
}

struct Network {
    policies: Vec<Value>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Network {
    fn read() -> Self {
        let all = all();
        let of_kind = |kind: &'static str| all.iter().filter(move |one| one["kind"] == kind);
        let namespaces = of_kind("Namespace").map(|one| {
            let name = text(&one["metadata"]["name"]);
            let mut labels = labels(&one["metadata"]);
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
            (name, labels)
        });
        Self { namespaces: namespaces.collect(), policies: of_kind("NetworkPolicy").cloned().collect() }
    }

    /// Whether `direction` of `this` lets it speak with `other` at this port; without `other`, with anybody.
    fn lets(&self, this: &Workload, direction: &str, other: Option<&Workload>, port: &Value) -> bool {
        let (kind, peers) = if direction == "egress" { ("Egress", "to") } else { ("Ingress", "from") };
        let mut restricted = false;
        for policy in self.policies.iter().filter(|policy| policy["metadata"]["namespace"] == *this.namespace) {
            let spec = &policy["spec"];
            let of_this_kind = spec["policyTypes"].as_array().expect("types").iter().any(|of| of == kind);
            if !of_this_kind || !selects(&spec["podSelector"], &this.labels) {
                continue;
            }
            restricted = true;
            for rule in spec[direction].as_array().into_iter().flatten() {
                let mut ports = rule["ports"].as_array().expect("ports").iter();
                let is_it = |at: &Value| at["port"] == port["containerPort"] || at["port"] == port["name"];
                let Some(peers) = rule[peers].as_array() else {
                    if ports.any(is_it) {
                        return true;
                    }
                    continue;
                };
                if ports.any(is_it) && other.is_some_and(|other| peers.iter().any(|peer| self.is(peer, this, other))) {
                    return true;
                }
            }
        }
        !restricted
    }

    fn is(&self, peer: &Value, this: &Workload, other: &Workload) -> bool {
        let in_its_namespace = match &peer["namespaceSelector"] {
            Value::Null => this.namespace == other.namespace,
            selector => selects(selector, &self.namespaces[&other.namespace]),
        };
        in_its_namespace && selects(&peer["podSelector"], &other.labels)
    }
}

/// The rows of a table of ARCHITECTURE.md: who, and whom it speaks to; `R` is a region, `O` the other one.
fn listed() -> BTreeSet<String> {
    let architecture = read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, table) = architecture.split_once("## Who speaks to whom").expect("the table");
    let rows = table.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    let mut arrows = BTreeSet::new();
    for row in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        for (region, other) in [("a", "b"), ("b", "a")] {
            let name = |name: &str| {
                let (app, namespace) = name.split_once(" of ").expect("an app of a namespace");
                match namespace {
                    "R" => format!("chat-sync-{region}/{app}"),
                    "O" => format!("chat-sync-{other}/{app}"),
                    other => format!("{other}/{app}"),
                }
            };
            arrows.extend(names[1..].iter().map(|to| format!("{} -> {}", name(names[0]), name(to))));
        }
    }
    arrows
}

#[test]
fn pods_can_speak_to_those_that_architecture_lists_and_to_no_others() {
    let (network, workloads) = (Network::read(), workloads());
    let mut open = BTreeSet::new();
    for from in &workloads {
        for to in workloads.iter().filter(|to| to.name != from.name) {
            let ports =
                to.containers("containers").flat_map(|container| container["ports"].as_array().into_iter().flatten());
            for port in ports {
                if network.lets(from, "egress", Some(to), port) && network.lets(to, "ingress", Some(from), port) {
                    open.insert(format!("{} -> {}", from.name, to.name));
                }
            }
        }
    }
    assert_eq!(open, listed());
    // What people open through a port of the node.
    let from_anywhere = workloads.iter().filter(|to| {
        let ports =
            to.containers("containers").flat_map(|container| container["ports"].as_array().into_iter().flatten());
        ports.into_iter().any(|port| network.lets(to, "ingress", None, port))
    });
    let names: BTreeSet<&str> = from_anywhere.map(|workload| workload.name.as_str()).collect();
    let expected =
        ["chat-sync-a/internal", "chat-sync-b/internal", "chat-sync-operators/kafka-ui", "chat-sync-vendor/external"];
    assert_eq!(names, BTreeSet::from(expected));
}
