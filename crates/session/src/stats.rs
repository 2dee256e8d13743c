//! Statistics for the operator's console. A request leaves an event in memory. Once a second all events
//! go to the store together, so no request waits for that. A session that is written all the time is
//! reported once a minute.
//!
//! A server that is killed takes the last second of its counts along. The sessions themselves are
//! not concerned.

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

/// The most sessions whose events are kept while the store is away. A later one is missing in the list
/// until it is written again, or until the list is completed.
const MOST_EVENTS: usize = 100_000;

/// How many sessions that were reported a while ago are remembered.
const RECENT: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// An end that has moved by less is not worth telling, in seconds. Lists are cleared that much later.
pub const EXACT_TO: i64 = 60;

/// The words of this second, and what this server has seen since its start.
#[derive(Debug)]
pub struct StatsRecorder {
    events: Mutex<HashMap<Id, Event>>,
    reported: Mutex<Reported>,
    /// The store may have been told this batch, or part of it, or nothing.
    unconfirmed: Mutex<Option<StatsBatch>>,
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    /// It was written, and ends then (seconds since 1970).
    seen: Option<i64>,
    /// It was deleted, after that.
    gone: bool,
}

/// What has been told.
#[derive(Debug)]
struct Reported {
    batches: u64,
    counts: Counts,
    /// When each session ends, as the store was told, and in which hour that was.
    sessions: LruCache<Id, (i64, i64)>,
    /// Per kind of step.
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
                sessions: LruCache::new(RECENT),
                own: Default::default(),
            }),
        }
    }
}

impl StatsRecorder {
    /// A session was written, and ends at `ends`.
    pub fn seen(&self, id: Id, ends: i64) {
        self.event(id, |event| event.seen = Some(ends));
    }

    /// A session was deleted.
    pub fn gone(&self, id: Id) {
        self.event(id, |event| event.gone = true);
    }

    fn event(&self, id: Id, say: impl FnOnce(&mut Event)) {
        let mut events = self.events();
        if events.len() < MOST_EVENTS || events.contains_key(&id) {
            say(events.entry(id).or_default());
        }
    }

    /// What happened since the last batch; `None`: nothing. Where that one was kept, it comes again.
    pub fn next_batch(&self, recorder: &Recorder, server: u64, now: i64) -> Option<StatsBatch> {
        if let Some(batch) = self.unconfirmed().take() {
            return Some(batch);
        }
        let events = std::mem::take(&mut *self.events());
        let mut reported = self.reported();
        let so_far = counts(recorder);
        let counts = so_far.since(&reported.counts);
        reported.counts = so_far;
        reported.note(&counts, now);
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
            if let Some(ends) = event.seen
                && reported.is_news(id, ends, now)
            {
                batch.seen.push((id, ends));
            }
            if event.gone {
                reported.sessions.pop(&id);
                batch.gone.push(id);
            }
        }
        let nothing = batch.counts.is_zero() && batch.seen.is_empty() && batch.gone.is_empty();
        (!nothing).then_some(batch)
    }

    /// The store may not have been told this batch: it comes again, before anything newer.
    pub fn keep(&self, batch: StatsBatch) {
        *self.unconfirmed() = Some(batch);
    }

    /// What this server alone has seen since its start, for engines that keep nothing of it.
    pub fn history(&self, now: i64) -> History {
        let reported = self.reported();
        let buckets = |step: Resolution| reported.buckets(step, now);
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
    fn note(&mut self, counts: &Counts, now: i64) {
        for (step, own) in Resolution::ALL.into_iter().zip(&mut self.own) {
            own.entry(step.number(now)).or_default().add(counts);
            while own.len() > step.shown() {
                own.pop_first();
            }
        }
    }

    /// Whether the store has to be told. Once an hour it has, for it counts an hour's sessions.
    fn is_news(&mut self, id: Id, ends: i64, now: i64) -> bool {
        let hour = Resolution::Hour.number(now);
        let known = self.sessions.get(&id);
        let known = known.is_some_and(|(reported, in_hour)| {
            *in_hour == hour && reported.abs_diff(ends) < EXACT_TO.unsigned_abs()
        });
        if !known {
            self.sessions.put(id, (ends, hour));
        }
        !known
    }

    fn buckets(&self, step: Resolution, now: i64) -> Vec<Bucket> {
        let own = &self.own[step as usize];
        let bucket = |number: i64| Bucket {
            began: number * step.seconds(),
            counts: own.get(&number).cloned().unwrap_or_default(),
            active: None,
        };
        step.numbers(now).map(bucket).collect()
    }
}

/// Everything that has been counted since the start.
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
    fn a_busy_session_is_told_of_once_a_minute_and_once_an_hour() {
        let (recorder, metrics) = (StatsRecorder::default(), Recorder::new(&[]));
        let seen = |ends, now| {
            recorder.seen(Id(7), ends);
            let batch = recorder.next_batch(&metrics, 1, now);
            batch.map_or(0, |batch| batch.seen.len())
        };
        assert_eq!(seen(NOW + 100, NOW), 1);
        assert_eq!(seen(NOW + 101, NOW + 1), 0);
        assert_eq!(seen(NOW + 160, NOW + 60), 1);
        assert_eq!(seen(NOW + 50, NOW + 61), 1, "it ends sooner");
        assert_eq!(seen(NOW + 50, NOW + 3_600), 1, "another hour");
        assert!(recorder.next_batch(&metrics, 1, NOW).is_none());
    }

    #[test]
    fn counts_are_told_once_and_a_page_that_was_kept_comes_again() {
        let (recorder, metrics) = (StatsRecorder::default(), Recorder::new(&[]));
        metrics.changes.inc_by(3);
        recorder.seen(Id(7), NOW);
        recorder.gone(Id(8));
        let first = recorder.next_batch(&metrics, 1, NOW).expect("a batch");
        assert_eq!(first.counts.changes, 3);
        metrics.changes.inc_by(2);
        recorder.seen(Id(9), NOW + 9);
        recorder.keep(first.clone());
        let again = recorder.next_batch(&metrics, 1, NOW + 1).expect("a batch");
        assert_eq!((again.number, again.now), (first.number, NOW));
        assert_eq!((&again.seen, &again.gone), (&first.seen, &first.gone));
        let next = recorder.next_batch(&metrics, 1, NOW + 1).expect("a batch");
        assert_ne!(next.number, first.number);
        assert_eq!(
            next.counts.changes, 2,
            "what was reported is not reported again"
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
