//! What is written down for the operator's console. A request leaves a word in memory; once in a
//! second all words of that second go to the store together, so that no visitor waits for it and
//! the store hardly notices. A session that is written all the time is told of once a minute.
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
    metrics::Metrics,
    store::census::{Counts, Lately, Page, Span, Step},
};

/// While the store is away so many sessions' words are kept; later ones are left out of the list
/// until their next visit, or until it is completed.
const MOST_WORDS: usize = 100_000;

/// So many sessions are remembered that were told of a while ago.
const RECENT: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// An end that has moved by less is not worth telling, in seconds. Lists are cleared that much later.
pub const EXACT_TO: i64 = 60;

/// The words of this second, and what this server has seen since its start.
#[derive(Debug)]
pub struct Register {
    words: Mutex<HashMap<Id, Word>>,
    told: Mutex<Told>,
    /// The store may have been told this page, or part of it, or nothing.
    undecided: Mutex<Option<Page>>,
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// It was written, and ends then (seconds since 1970).
    seen: Option<i64>,
    /// It was deleted, after that.
    gone: bool,
}

/// What has been told.
#[derive(Debug)]
struct Told {
    pages: u64,
    counts: Counts,
    /// When each session ends, as the store was told, and in which hour that was.
    sessions: LruCache<Id, (i64, i64)>,
    /// Per kind of step.
    own: [BTreeMap<i64, Counts>; Step::ALL.len()],
}

impl Default for Register {
    fn default() -> Self {
        Self {
            words: Mutex::default(),
            undecided: Mutex::default(),
            told: Mutex::new(Told {
                pages: 0,
                counts: Counts::default(),
                sessions: LruCache::new(RECENT),
                own: Default::default(),
            }),
        }
    }
}

impl Register {
    /// A session was written, and ends at `ends`.
    pub fn seen(&self, id: Id, ends: i64) {
        self.word(id, |word| word.seen = Some(ends));
    }

    /// A session was deleted.
    pub fn gone(&self, id: Id) {
        self.word(id, |word| word.gone = true);
    }

    fn word(&self, id: Id, say: impl FnOnce(&mut Word)) {
        let mut words = self.words();
        if words.len() < MOST_WORDS || words.contains_key(&id) {
            say(words.entry(id).or_default());
        }
    }

    /// What happened since the last page; `None`: nothing. Where that one was kept, it comes again.
    pub fn next_page(&self, metrics: &Metrics, server: u64, now: i64) -> Option<Page> {
        if let Some(page) = self.undecided().take() {
            return Some(page);
        }
        let words = std::mem::take(&mut *self.words());
        let mut told = self.told();
        let so_far = counts(metrics);
        let counts = so_far - told.counts;
        told.counts = so_far;
        told.note(counts, now);
        told.pages += 1;
        let mut page = Page {
            server,
            number: told.pages,
            now,
            counts,
            ..Page::default()
        };
        for (id, word) in words {
            if let Some(ends) = word.seen
                && told.is_news(id, ends, now)
            {
                page.seen.push((id, ends));
            }
            if word.gone {
                told.sessions.pop(&id);
                page.gone.push(id);
            }
        }
        let nothing = counts == Counts::default() && page.seen.is_empty() && page.gone.is_empty();
        (!nothing).then_some(page)
    }

    /// The store may not have been told this page: it comes again, before anything newer.
    pub fn keep(&self, page: Page) {
        *self.undecided() = Some(page);
    }

    /// What this server alone has seen since its start, for engines that keep nothing of it.
    pub fn lately(&self, now: i64) -> Lately {
        let told = self.told();
        let spans = |step: Step| told.spans(step, now);
        Lately {
            minutes: spans(Step::Minute),
            hours: spans(Step::Hour),
            days: spans(Step::Day),
        }
    }

    fn words(&self) -> MutexGuard<'_, HashMap<Id, Word>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn undecided(&self) -> MutexGuard<'_, Option<Page>> {
        self.undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn note(&mut self, counts: Counts, now: i64) {
        for (step, own) in Step::ALL.into_iter().zip(&mut self.own) {
            *own.entry(step.number(now)).or_default() += counts;
            while own.len() > step.shown() {
                own.pop_first();
            }
        }
    }

    /// Whether the store has to be told. Once an hour it has, for it counts an hour's visitors.
    fn is_news(&mut self, id: Id, ends: i64, now: i64) -> bool {
        let hour = Step::Hour.number(now);
        let known = self.sessions.get(&id);
        let known = known.is_some_and(|(told, in_hour)| {
            *in_hour == hour && told.abs_diff(ends) < EXACT_TO.unsigned_abs()
        });
        if !known {
            self.sessions.put(id, (ends, hour));
        }
        !known
    }

    fn spans(&self, step: Step, now: i64) -> Vec<Span> {
        let own = &self.own[step as usize];
        let span = |number: i64| Span {
            began: number * step.seconds(),
            counts: own.get(&number).copied().unwrap_or_default(),
            visitors: None,
        };
        step.numbers(now).map(span).collect()
    }
}

/// Everything that has been counted since the start.
fn counts(metrics: &Metrics) -> Counts {
    Counts {
        visits: metrics.visits.get(),
        created: metrics.created.get(),
        ended: metrics.flushed.get() + metrics.revoked.get() + metrics.expired.get(),
        conflicts: metrics.conflicts.get(),
        operations: metrics.store_operations.get(),
        microseconds: metrics.store_microseconds.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_busy_session_is_told_of_once_a_minute_and_once_an_hour() {
        let (register, metrics) = (Register::default(), Metrics::default());
        let seen = |ends, now| {
            register.seen(Id(7), ends);
            let page = register.next_page(&metrics, 1, now);
            page.map_or(0, |page| page.seen.len())
        };
        assert_eq!(seen(NOW + 100, NOW), 1);
        assert_eq!(seen(NOW + 101, NOW + 1), 0);
        assert_eq!(seen(NOW + 160, NOW + 60), 1);
        assert_eq!(seen(NOW + 50, NOW + 61), 1, "it ends sooner");
        assert_eq!(seen(NOW + 50, NOW + 3_600), 1, "another hour");
        assert!(register.next_page(&metrics, 1, NOW).is_none());
    }

    #[test]
    fn counts_are_told_once_and_a_page_that_was_kept_comes_again() {
        let (register, metrics) = (Register::default(), Metrics::default());
        metrics.visits.inc_by(3);
        register.seen(Id(7), NOW);
        register.gone(Id(8));
        let first = register.next_page(&metrics, 1, NOW).expect("a page");
        assert_eq!(first.counts.visits, 3);
        metrics.visits.inc_by(2);
        register.seen(Id(9), NOW + 9);
        register.keep(first.clone());
        let again = register.next_page(&metrics, 1, NOW + 1).expect("a page");
        assert_eq!((again.number, again.now), (first.number, NOW));
        assert_eq!((&again.seen, &again.gone), (&first.seen, &first.gone));
        let next = register.next_page(&metrics, 1, NOW + 1).expect("a page");
        assert_ne!(next.number, first.number);
        assert_eq!(next.counts.visits, 2, "what was told is not told again");
        assert_eq!(next.seen, [(Id(9), NOW + 9)]);
        let lately = register.lately(NOW + 60);
        let visits = |spans: &[Span]| {
            spans
                .iter()
                .map(|span| span.counts.visits)
                .collect::<Vec<_>>()
        };
        assert_eq!(visits(&lately.minutes)[58..], [5, 0]);
        assert_eq!(visits(&lately.days)[28..], [0, 5]);
    }
}
