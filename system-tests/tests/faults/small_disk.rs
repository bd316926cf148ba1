//! A small file system in memory, which a test can fill.

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `size` as `mount` takes it, such as `160m`; `None` where it cannot be mounted.
    pub fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Until nothing more can be written.
    pub fn fill(&self) {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", self.ballast().display()))
            .output();
        assert!(!filled.expect("dd").status.success(), "the disk is full");
    }

    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("freed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
