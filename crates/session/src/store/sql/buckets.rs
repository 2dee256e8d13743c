//! Statistics as SQL engines keep them: a row for each count of each step of time, and a sketch of the different sessions
//! of each hour and day (up to 12 KB, exact to one in a hundred).

use std::{collections::HashMap, hash::DefaultHasher};

use cardinality_estimator::CardinalityEstimator;
use tower_sessions::session::Id;

use crate::store::index::{Bucket, Counts, History, Resolution, StatsBatch};

/// How long counts are kept, in steps beyond those that are shown.
const KEPT: i64 = 2;

/// How long a server's last batch is remembered, in seconds.
const LAST_BATCH_AGE: i64 = 3_600;

/// Which sessions there were, in little room.
type Sketch = CardinalityEstimator<u64, DefaultHasher, 14, 6>;

/// The number of a resolution in the tables.
fn number_of(step: Resolution) -> i16 {
    match step {
        Resolution::Minute => 0,
        Resolution::Hour => 1,
        Resolution::Day => 2,
    }
}

/// A row of counts: the resolution, the step's number, the count's name, and its value.
pub type CountRow = (i16, i64, String, i64);

/// A row of sketches: the resolution, the step's number, and the sketch.
pub type SketchRow = (i16, i64, Vec<u8>);

/// What a batch adds to the rows of counts.
pub fn added(batch: &StatsBatch) -> Vec<CountRow> {
    let names = Counts::FIELDS.iter().chain(&batch.counters);
    let counted: Vec<(&str, u64)> = names
        .copied()
        .zip(batch.counts.values())
        .filter(|(_, value)| *value > 0)
        .collect();
    let rows = |step: Resolution| {
        let row = move |(name, value): &(&str, u64)| {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            (
                number_of(step),
                step.number(batch.now),
                (*name).to_owned(),
                value,
            )
        };
        counted.iter().map(row)
    };
    Resolution::ALL.into_iter().flat_map(rows).collect()
}

/// The sketches that a batch changes: a resolution and the step's number. None where no session was seen.
pub fn sketches_of(batch: &StatsBatch) -> Vec<(i16, i64)> {
    let steps = [Resolution::Hour, Resolution::Day].into_iter();
    let steps = steps.filter(|_| !batch.seen.is_empty());
    steps
        .map(|step| (number_of(step), step.number(batch.now)))
        .collect()
}

/// A sketch with these sessions, too. One that can't be read begins anew.
pub fn sketch_with(stored: Option<&[u8]>, seen: &[(Id, i64)]) -> Vec<u8> {
    let mut sketch = stored.and_then(read).unwrap_or_default();
    for (id, _) in seen {
        // Ids are hashes already.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "half of a hash"
        )]
        sketch.insert_hash(id.0 as u64);
    }
    rmp_serde::to_vec(&sketch).unwrap_or_default()
}

fn read(sketch: &[u8]) -> Option<Sketch> {
    rmp_serde::from_slice(sketch).ok()
}

/// For each resolution the number of the oldest step that is kept.
pub fn oldest(now: i64) -> [(i16, i64); 3] {
    Resolution::ALL.map(|step| {
        let shown = i64::try_from(step.shown()).unwrap_or(0);
        (number_of(step), step.number(now) - shown - KEPT)
    })
}

/// Servers whose last batch came before this are forgotten, in seconds since 1970.
pub fn oldest_batch(now: i64) -> i64 {
    now - LAST_BATCH_AGE
}

/// What these rows tell.
pub fn history(
    now: i64,
    counters: &[&'static str],
    counts: Vec<CountRow>,
    sketches: &[SketchRow],
) -> History {
    let mut values: HashMap<(i16, i64), HashMap<String, u64>> = HashMap::new();
    for (step, number, name, value) in counts {
        let step = values.entry((step, number)).or_default();
        step.insert(name, u64::try_from(value).unwrap_or(0));
    }
    let active: HashMap<(i16, i64), u64> = sketches
        .iter()
        .filter_map(|(step, number, sketch)| {
            Some(((*step, *number), read(sketch)?.estimate() as u64))
        })
        .collect();
    let bucket = |step: Resolution, number: i64| {
        let key = (number_of(step), number);
        let names = Counts::FIELDS.iter().chain(counters);
        let value = |name: &&str| {
            let value = values.get(&key).and_then(|values| values.get(*name));
            value.copied().unwrap_or(0)
        };
        let is_sketched = step != Resolution::Minute;
        Bucket {
            began: number * step.seconds(),
            counts: Counts::of(names.map(value)),
            active: is_sketched.then(|| active.get(&key).copied().unwrap_or(0)),
        }
    };
    let buckets = |step: Resolution| {
        let numbers = step.numbers(now);
        numbers.map(|number| bucket(step, number)).collect()
    };
    History {
        minutes: buckets(Resolution::Minute),
        hours: buckets(Resolution::Hour),
        days: buckets(Resolution::Day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_sketch_counts_sessions_once_to_one_in_a_hundred() {
        let ids: Vec<(Id, i64)> = (0..100_000).map(|_| (Id::default(), 0)).collect();
        let (first, second) = ids.split_at(60_000);
        let mut sketch = sketch_with(None, first);
        for seen in [second, first, second] {
            sketch = sketch_with(Some(&sketch), seen);
        }
        assert!(sketch.len() < 16_000, "{} bytes", sketch.len());
        let count = read(&sketch).expect("a sketch").estimate();
        assert!((97_500..102_500).contains(&count), "{count}");
        assert_eq!(read(b"no sketch").map(|sketch| sketch.estimate()), None);
    }

    #[test]
    fn what_a_batch_adds_is_what_the_history_tells() {
        let batch = StatsBatch {
            now: NOW,
            counters: vec!["orders"],
            counts: Counts::of([1, 2, 0, 4, 5, 6, 7]),
            seen: vec![(Id(1), 0), (Id(2), 0)],
            ..StatsBatch::default()
        };
        let sketch = |(step, number)| (step, number, sketch_with(None, &batch.seen));
        let sketches: Vec<SketchRow> = sketches_of(&batch).into_iter().map(sketch).collect();
        let history = history(NOW, &["orders"], added(&batch), &sketches);
        for (buckets, active) in [
            (&history.minutes, None),
            (&history.hours, Some(2)),
            (&history.days, Some(2)),
        ] {
            let last = buckets.last().expect("a step");
            assert_eq!(last.counts, batch.counts);
            assert_eq!(last.active, active);
            assert!(buckets[0].counts.is_zero());
        }
        assert!(oldest(NOW)[0].1 < Resolution::Minute.number(NOW) - 60);
    }
}
