//! People who write, edit and delete at a steady rate until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;

use crate::vendor::Vendor;

/// Of twenty changes two are edits and one is a deletion.
pub struct Flow {
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Flow {
    /// One person a chat, `rate` changes a second in all.
    pub fn begin(vendor: &Vendor, chats: &[String], rate: u64) -> Self {
        let (stop, posted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let beat = Duration::from_millis(1000 * chats.len() as u64 / rate);
        let people = chats.iter().map(|chat| {
            let (vendor, chat, stop, posted) = (vendor.clone(), chat.clone(), stop.clone(), posted.clone());
            tokio::spawn(async move {
                let mut beats = tokio::time::interval(beat);
                let mut last = String::new();
                while !stop.load(Ordering::Relaxed) {
                    beats.tick().await;
                    let number = posted.fetch_add(1, Ordering::Relaxed);
                    match number % 20 {
                        3 | 11 if !last.is_empty() => vendor.edit(&chat, &last, &format!("edited {number}")).await,
                        7 if !last.is_empty() => vendor.delete(&chat, &std::mem::take(&mut last)).await,
                        _ => last = vendor.post(&chat, &format!("message {number}")).await,
                    }
                }
            })
        });
        let tasks = people.collect();
        Self { stop, posted, tasks }
    }

    pub fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }

    /// How many changes there were.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for ended in join_all(self.tasks).await {
            ended.expect("nobody was refused");
        }
        self.posted.load(Ordering::Relaxed)
    }
}
