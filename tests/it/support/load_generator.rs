//! Visitors who never stop, and who remember every response: what was acknowledged must be there in
//! the end, whatever broke meanwhile.

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

/// Visits one session from several connections until it is told to stop.
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

/// What the visitors were answered.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The numbers of the acknowledged visits.
    pub numbers: Vec<u64>,
    /// Answers other than 200, by status; 0: the connection broke.
    pub failed: BTreeMap<u16, u64>,
    /// Answers of 503 that did not say when to come back.
    pub without_retry: u64,
    /// The longest wait for an response.
    pub slowest: Duration,
}

impl LoadGenerator {
    /// Each connection visits the next of the servers.
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

    /// Waits until so many more visits have been acknowledged.
    pub fn until_acknowledged(&self, more: u64) {
        wait_for(&self.shared.acknowledged, more);
    }

    /// Waits until so many more visits have failed.
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
        let says_when = response.is_some_and(|response| response.header("retry-after").is_some());
        if status == 503 && !says_when {
            seen.without_retry += 1;
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

impl LoadReport {
    /// How many were not acknowledged.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Every acknowledged visit has a number of its own and is in the count; what is in the count
    /// besides was asked for, and its response got lost. `visits` is the count in the end, of a
    /// session that began with one visit.
    pub fn assert_nothing_lost(&self, visits: u64) {
        let different: BTreeSet<_> = self.numbers.iter().collect();
        assert_eq!(
            different.len(),
            self.numbers.len(),
            "a number was given twice"
        );
        let last = different.last().map_or(1, |number| **number);
        assert!(
            last <= visits,
            "visit {last} was acknowledged, {visits} are counted"
        );
        let acknowledged = self.numbers.len() as u64;
        let unanswered = (visits - 1).checked_sub(acknowledged);
        assert!(
            unanswered.is_some_and(|unanswered| unanswered <= self.failures()),
            "{acknowledged} acknowledged, {} failed, {visits} counted",
            self.failures()
        );
    }
}
