//! The whole pipeline, as its users see it.

mod access;
mod anti_entropy;
mod bad_input;
mod browser;
mod copy;
mod deployment;
mod erasure;
mod floods;
mod hostile;
mod leadership;
mod manifests;
mod mirror;
mod misbehaviour;
mod pages;
mod promises;
mod protocols;
mod real_log;
mod receipts;
mod reconcile;
mod regions;
mod resume;
mod tls;
mod tools;
