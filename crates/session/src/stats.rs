//! Statistics for the operator's console.
//!
//! A request records an event in memory. Once a second, all events go to the store in one batch, so no request waits
//! for it. A session that is written all the time is reported once a minute.
//!
//! A server that is killed loses the statistics of its last second. The sessions themselves are not affected.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use tower_sessions::session::Id;

use super::{
    metrics::Recorder,
    store::index::{Bucket, Counts, History, Resolution, StatsBatch},
};

/// The most sessions whose events are kept while the store is unreachable. Any further session is missing from the
/// index until it is written again or the index is backfilled.
const MAX_EVENTS: usize = 100_000;

/// The most sessions whose last report is kept.
const MAX_REPORTED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// By how many seconds a reported expiry may be off. A session whose expiry has moved by less is not reported again, so
/// the index is cleared this much later.
pub const EXPIRY_TOLERANCE: i64 = 60;

/// Collects this second's events, and keeps this server's own history since it started.
#[derive(Debug)]
pub struct StatsRecorder {
    events: Mutex<HashMap<Id, Event>>,
    reported: Mutex<Reported>,
    /// A batch that failed. The store may have recorded all of it, part of it, or nothing.
    unconfirmed: Mutex<Option<StatsBatch>>,
}

/// The events of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    /// The session was written, and expires at this time, in seconds since 1970.
    seen: Option<i64>,
    /// The session was deleted, after any write.
    gone: bool,
}

/// The statistics that have been handed out in batches so far.
#[derive(Debug)]
struct Reported {
    batches: u64,
    counts: Counts,
    /// Each session's reported expiry, and the hour of the report.
    sessions: LruCache<Id, (i64, i64)>,
    /// This server's counts by the number of the bucket, for each resolution.
    own: [BTreeMap<i64, Counts>; Resolution::ALL.len()],
}

impl Default for StatsRecorder {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            unconfirmed: Mutex::default(),
            reported: Mutex::new(Reported {
                batches: 0,
                counts: Counts::default(),
                sessions: LruCache::new(MAX_REPORTED),
                own: Default::default(),
            }),
        }
    }
}

impl StatsRecorder {
    /// Records that a session was written, with its new expiry.
    pub fn seen(&self, id: Id, expires_at: i64) {
        self.event(id, |event| event.seen = Some(expires_at));
    }

    /// Records that a session was deleted.
    pub fn gone(&self, id: Id) {
        self.event(id, |event| event.gone = true);
    }

    fn event(&self, id: Id, update: impl FnOnce(&mut Event)) {
        let mut events = self.events();
        if events.len() < MAX_EVENTS || events.contains_key(&id) {
            update(events.entry(id).or_default());
        }
    }

    /// The statistics since the last batch. `None`: nothing has happened. A batch kept for a retry comes first.
    pub fn next_batch(&self, recorder: &Recorder, server: u64, now: i64) -> Option<StatsBatch> {
        if let Some(batch) = self.unconfirmed().take() {
            return Some(batch);
        }
        let events = std::mem::take(&mut *self.events());
        let mut reported = self.reported();
        let totals = counts(recorder);
        let counts = totals.since(&reported.counts);
        reported.counts = totals;
        reported.record(&counts, now);
        reported.batches += 1;
        let mut batch = StatsBatch {
            server,
            number: reported.batches,
            now,
            counters: recorder.counters().map(|(name, _)| name).collect(),
            counts,
            ..StatsBatch::default()
        };
        for (id, event) in events {
            if let Some(expires_at) = event.seen
                && reported.must_report(id, expires_at, now)
            {
                batch.seen.push((id, expires_at));
            }
            if event.gone {
                reported.sessions.pop(&id);
                batch.gone.push(id);
            }
        }
        let is_empty = batch.counts.is_zero() && batch.seen.is_empty() && batch.gone.is_empty();
        (!is_empty).then_some(batch)
    }

    /// Keeps a batch that the store may not have recorded. It is the next batch again.
    pub fn keep_for_retry(&self, batch: StatsBatch) {
        *self.unconfirmed() = Some(batch);
    }

    /// The history of this server alone since it started, for stores that keep no statistics.
    pub fn history(&self, now: i64) -> History {
        let reported = self.reported();
        let buckets = |resolution: Resolution| reported.buckets(resolution, now);
        History {
            minutes: buckets(Resolution::Minute),
            hours: buckets(Resolution::Hour),
            days: buckets(Resolution::Day),
        }
    }

    fn events(&self) -> MutexGuard<'_, HashMap<Id, Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unconfirmed(&self) -> MutexGuard<'_, Option<StatsBatch>> {
        self.unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reported {
    fn record(&mut self, counts: &Counts, now: i64) {
        for (resolution, own) in Resolution::ALL.into_iter().zip(&mut self.own) {
            own.entry(resolution.number(now)).or_default().add(counts);
            while own.len() > resolution.shown() {
                own.pop_first();
            }
        }
    }

    /// Whether a session must be reported: its expiry has moved, or it has not been reported this hour. The store
    /// counts the different sessions of each hour.
    fn must_report(&mut self, id: Id, expires_at: i64, now: i64) -> bool {
        let hour = Resolution::Hour.number(now);
        let last = self.sessions.get(&id);
        let is_reported = last.is_some_and(|(reported, in_hour)| {
            *in_hour == hour && reported.abs_diff(expires_at) < EXPIRY_TOLERANCE.unsigned_abs()
        });
        if !is_reported {
            self.sessions.put(id, (expires_at, hour));
        }
        !is_reported
    }

    fn buckets(&self, resolution: Resolution, now: i64) -> Vec<Bucket> {
        let own = &self.own[resolution as usize];
        let bucket = |number: i64| Bucket {
            started_at: number * resolution.seconds(),
            counts: own.get(&number).cloned().unwrap_or_default(),
            active: None,
        };
        resolution.numbers(now).map(bucket).collect()
    }
}

/// The totals since the server started.
fn counts(recorder: &Recorder) -> Counts {
    let (operations, microseconds) = recorder.store_totals();
    Counts {
        created: recorder.created.get(),
        ended: recorder.flushed.get() + recorder.revoked.get() + recorder.expired.get(),
        changes: recorder.changes.get(),
        conflicts: recorder.conflicts.get(),
        operations,
        microseconds,
        counters: recorder.counters().map(|(_, count)| count).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_busy_session_is_reported_once_a_minute_and_once_an_hour() {
        let (recorder, metrics) = (StatsRecorder::default(), Recorder::new(&[]));
        let seen = |expires_at, now| {
            recorder.seen(Id(7), expires_at);
            let batch = recorder.next_batch(&metrics, 1, now);
            batch.map_or(0, |batch| batch.seen.len())
        };
        assert_eq!(seen(NOW + 100, NOW), 1);
        assert_eq!(seen(NOW + 101, NOW + 1), 0);
        assert_eq!(seen(NOW + 160, NOW + 60), 1);
        assert_eq!(seen(NOW + 50, NOW + 61), 1, "it expires sooner");
        assert_eq!(seen(NOW + 50, NOW + 3_600), 1, "another hour");
        assert!(recorder.next_batch(&metrics, 1, NOW).is_none());
    }

    #[test]
    fn counts_are_reported_once_and_a_failed_batch_is_repeated() {
        let (recorder, metrics) = (StatsRecorder::default(), Recorder::new(&[]));
        metrics.changes.inc_by(3);
        recorder.seen(Id(7), NOW);
        recorder.gone(Id(8));
        let first = recorder.next_batch(&metrics, 1, NOW).expect("a batch");
        assert_eq!(first.counts.changes, 3);
        metrics.changes.inc_by(2);
        recorder.seen(Id(9), NOW + 9);
        recorder.keep_for_retry(first.clone());
        let again = recorder.next_batch(&metrics, 1, NOW + 1).expect("a batch");
        assert_eq!((again.number, again.now), (first.number, NOW));
        assert_eq!((&again.seen, &again.gone), (&first.seen, &first.gone));
        let next = recorder.next_batch(&metrics, 1, NOW + 1).expect("a batch");
        assert_ne!(next.number, first.number);
        assert_eq!(
            next.counts.changes, 2,
            "a confirmed batch is not reported again"
        );
        assert_eq!(next.seen, [(Id(9), NOW + 9)]);
        let history = recorder.history(NOW + 60);
        let changes = |buckets: &[Bucket]| {
            buckets
                .iter()
                .map(|bucket| bucket.counts.changes)
                .collect::<Vec<_>>()
        };
        assert_eq!(changes(&history.minutes)[58..], [5, 0]);
        assert_eq!(changes(&history.days)[28..], [0, 5]);
    }
}
