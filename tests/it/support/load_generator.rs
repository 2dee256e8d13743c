//! Visits a session without a pause, and records every response.
//!
//! A test breaks something under this load, and then checks that no acknowledged visit has been lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Request, until};

/// Visits one session over several connections until it is finished.
pub struct LoadGenerator {
    shared: Arc<Shared>,
    visitors: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    seen: Mutex<LoadReport>,
}

/// The responses that a [`LoadGenerator`] has received.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The numbers of the acknowledged visits, in no order.
    pub numbers: Vec<u64>,
    /// How many responses other than 200 there were, by status. A broken connection has status 0.
    pub failed: BTreeMap<u16, u64>,
    /// How many 503 responses had no `Retry-After`.
    pub without_retry: u64,
    /// The longest wait for a response.
    pub slowest: Duration,
}

impl LoadGenerator {
    /// Starts the visits. The connections take turns on the servers.
    pub fn start(servers: &[String], cookie: &str, connections: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let visitors = (0..connections)
            .map(|connection| {
                let url = format!("{}/api/visit", servers[connection % servers.len()]);
                let (shared, cookie) = (Arc::clone(&shared), cookie.to_owned());
                thread::spawn(move || {
                    while !shared.stopped.load(Ordering::SeqCst) {
                        shared.visit(&url, &cookie);
                    }
                })
            })
            .collect();
        Self { shared, visitors }
    }

    /// Waits until `more` visits have been acknowledged.
    pub fn until_acknowledged(&self, more: u64) {
        wait_for(&self.shared.acknowledged, more);
    }

    /// Waits until `more` visits have failed.
    pub fn until_refused(&self, more: u64) {
        wait_for(&self.shared.refused, more);
    }

    pub fn finish(self) -> LoadReport {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for visitor in self.visitors {
            visitor.join().expect("no panic");
        }
        self.shared.seen.lock().expect("not poisoned").clone()
    }
}

fn wait_for(counter: &AtomicU64, more: u64) {
    let enough = counter.load(Ordering::SeqCst) + more;
    until(|| (counter.load(Ordering::SeqCst) >= enough).then_some(()));
}

impl Shared {
    fn visit(&self, url: &str, cookie: &str) {
        let began = Instant::now();
        let response = Request::to("POST", url).cookie(cookie).try_send();
        let took = began.elapsed();
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.slowest = seen.slowest.max(took);
        let status = response.as_ref().map_or(0, |response| response.status);
        let number = response.as_ref().and_then(|response| response.count());
        if let Some(number) = number.filter(|_| status == 200) {
            seen.numbers.push(number);
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
            return;
        }
        *seen.failed.entry(status).or_default() += 1;
        let has_retry_after =
            response.is_some_and(|response| response.header("retry-after").is_some());
        if status == 503 && !has_retry_after {
            seen.without_retry += 1;
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

impl LoadReport {
    /// The number of visits that were not acknowledged.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Asserts that every acknowledged visit has its own number and was counted. `visits` is the final count of a
    /// session that began with one visit. It may include visits whose responses were lost.
    pub fn assert_nothing_lost(&self, visits: u64) {
        self.assert_nothing_lost_since(1, visits);
    }

    /// Like [`LoadReport::assert_nothing_lost`], for a session that had `before` visits when the load began.
    pub fn assert_nothing_lost_since(&self, before: u64, visits: u64) {
        let different: BTreeSet<_> = self.numbers.iter().collect();
        assert_eq!(
            different.len(),
            self.numbers.len(),
            "two visits got the same number"
        );
        let last = different.last().map_or(before, |number| **number);
        assert!(
            last <= visits,
            "visit {last} was acknowledged, but only {visits} were counted"
        );
        let acknowledged = self.numbers.len() as u64;
        let unanswered = (visits - before).checked_sub(acknowledged);
        assert!(
            unanswered.is_some_and(|unanswered| unanswered <= self.failures()),
            "{acknowledged} acknowledged, {} failed, {visits} counted",
            self.failures()
        );
    }
}
