//! A Kubernetes API of a test's own, whose servers it may stop and start again.

use std::path::PathBuf;
use std::process::Command;

use platform::testing::server;
use tempfile::TempDir;

pub struct OwnApi {
    pub kubeconfig: String,
    tool: PathBuf,
    folder: TempDir,
}

impl OwnApi {
    /// `None`, said loudly, without the tool that makes it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Option<Self> {
        let tool = PathBuf::from(server("CHAT_SYNC_TEST_KUBERNETES_NODE")?);
        let folder = tempfile::tempdir().expect("a folder");
        let mut api = Self { kubeconfig: String::new(), tool, folder };
        api.kubeconfig = api.tell(&["up"]).await.trim().to_owned();
        Some(api)
    }

    /// Takes `etcd` or `apiserver` away.
    pub async fn stop(&self, what: &str) {
        self.tell(&["stop", what]).await;
    }

    /// Brings it back, with the data that it had.
    pub async fn start_again(&self, what: &str) {
        self.tell(&["start", what]).await;
    }

    async fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.tool);
        command.arg("api").args(arguments).arg("--dir").arg(self.folder.path().join("api"));
        let output = tokio::task::spawn_blocking(move || command.output().expect("the tool")).await.expect("it ends");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for OwnApi {
    fn drop(&mut self) {
        let mut command = Command::new(&self.tool);
        let _ = command.args(["api", "down", "--dir"]).arg(self.folder.path().join("api")).output();
    }
}
