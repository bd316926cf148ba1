//! A lease of a test's own, on the Kubernetes API that the tests were given.

use kube::api::{Api, DeleteParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::{server, unique_suffix};

/// Where the leases of tests are.
const NAMESPACE: &str = "default";

/// A name that nothing else has. The lease is deleted when this is dropped, also by a test that fails: the cluster may
/// be somebody's own.
pub struct OwnLease {
    pub name: String,
    /// The file.
    pub kubeconfig: String,
}

impl OwnLease {
    /// `None`, said loudly, without a Kubernetes API.
    pub fn new() -> Option<Self> {
        Some(Self::at(server("CHAT_SYNC_TEST_KUBECONFIG")?))
    }

    pub fn at(kubeconfig: String) -> Self {
        Self { name: format!("test{}", unique_suffix()), kubeconfig }
    }

    /// What lets a synchronizer compete for it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("KUBECONFIG", self.kubeconfig.clone()), ("CHAT_SYNC_LEASE", self.name.clone())]
    }

    /// # Panics
    /// If the file is no kubeconfig.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await.expect("a client")
    }
}

async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn delete(kubeconfig: String, name: String) -> anyhow::Result<()> {
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client(&kubeconfig).await?, NAMESPACE);
    leases.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

impl Drop for OwnLease {
    fn drop(&mut self) {
        let (kubeconfig, name) = (self.kubeconfig.clone(), self.name.clone());
        // A thread of its own: a runtime cannot be blocked on from within another. An API that is gone keeps nothing.
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::time::timeout(std::time::Duration::from_secs(5), delete(kubeconfig, name)).await?
            })
        });
        let _ = deleting.join();
    }
}
