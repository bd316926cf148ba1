//! How many connections one address may hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts them.
#[derive(Debug)]
pub struct PerAddress {
    limit: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place.
#[derive(Debug)]
pub struct Place {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    pub fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default() }
    }

    /// A place for one more from there, held until it is dropped; `None` where there are enough.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut held = self.lock();
        let held_there = held.entry(address).or_default();
        if *held_there >= self.limit {
            return None;
        }
        *held_there += 1;
        Some(Place { of: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        if let Some(held_there) = held.get_mut(&self.address) {
            *held_there -= 1;
            if *held_there == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_holds_so_many_and_no_more() {
        let places = Arc::new(PerAddress::new(2));
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = places.enter(here);
        let second = places.enter(here);
        assert!(first.is_some() && second.is_some() && places.enter(here).is_none());
        assert!(places.enter(there).is_some());
        drop(first);
        assert!(places.enter(here).is_some(), "a place that was left is free");
        drop(second);
        assert!(places.lock().is_empty());
    }
}
