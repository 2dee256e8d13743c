//! The rows of the statistics: one for each count of each bucket, and one for each hour and day with a sketch of the
//! active sessions. A sketch has up to 12 KB, and its number of sessions is accurate to about one percent.

use std::{collections::HashMap, hash::DefaultHasher};

use cardinality_estimator::CardinalityEstimator;
use tower_sessions::session::Id;

use crate::store::index::{Bucket, Counts, History, Resolution, StatsBatch};

/// How many buckets are kept beyond those that charts show.
const SPARE_BUCKETS: i64 = 2;

/// How long a server's last batch is kept, in seconds.
const LAST_BATCH_AGE: i64 = 3_600;

/// An estimate of the number of different sessions, to which sessions can be added.
type Sketch = CardinalityEstimator<u64, DefaultHasher, 14, 6>;

/// The number of a resolution in the tables, in the column `step`.
fn number_of(resolution: Resolution) -> i16 {
    match resolution {
        Resolution::Minute => 0,
        Resolution::Hour => 1,
        Resolution::Day => 2,
    }
}

/// A row of counts: the resolution, the bucket's number, the count's name, and its value.
pub type CountRow = (i16, i64, String, i64);

/// A row of sketches: the resolution, the bucket's number, and the sketch.
pub type SketchRow = (i16, i64, Vec<u8>);

/// The rows of counts to which a batch adds, with the values that it adds.
pub fn count_rows(batch: &StatsBatch) -> Vec<CountRow> {
    let names = Counts::FIELDS.iter().chain(&batch.counters);
    let counted: Vec<(&str, u64)> = names
        .copied()
        .zip(batch.counts.values())
        .filter(|(_, value)| *value > 0)
        .collect();
    let rows = |resolution: Resolution| {
        let row = move |(name, value): &(&str, u64)| {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            (
                number_of(resolution),
                resolution.number(batch.now),
                (*name).to_owned(),
                value,
            )
        };
        counted.iter().map(row)
    };
    Resolution::ALL.into_iter().flat_map(rows).collect()
}

/// The sketches that a batch changes, each by its resolution and the bucket's number. Empty if no session was written.
pub fn sketch_keys(batch: &StatsBatch) -> Vec<(i16, i64)> {
    let resolutions = [Resolution::Hour, Resolution::Day].into_iter();
    let resolutions = resolutions.filter(|_| !batch.seen.is_empty());
    resolutions
        .map(|resolution| (number_of(resolution), resolution.number(batch.now)))
        .collect()
}

/// Adds sessions to a stored sketch. A sketch that can't be decoded is replaced.
pub fn add_to_sketch(stored: Option<&[u8]>, seen: &[(Id, i64)]) -> Vec<u8> {
    let mut sketch = stored.and_then(decode).unwrap_or_default();
    for (id, _) in seen {
        // Ids are already hashes.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "half of a hash"
        )]
        sketch.insert_hash(id.0 as u64);
    }
    rmp_serde::to_vec(&sketch).unwrap_or_default()
}

fn decode(sketch: &[u8]) -> Option<Sketch> {
    rmp_serde::from_slice(sketch).ok()
}

/// The oldest bucket that is kept of each resolution, by the resolution and the bucket's number.
pub fn oldest(now: i64) -> [(i16, i64); 3] {
    Resolution::ALL.map(|resolution| {
        let shown = i64::try_from(resolution.shown()).unwrap_or(0);
        let oldest = resolution.number(now) - shown - SPARE_BUCKETS;
        (number_of(resolution), oldest)
    })
}

/// The time of the oldest batch that is kept, in seconds since 1970.
pub fn oldest_batch(now: i64) -> i64 {
    now - LAST_BATCH_AGE
}

/// Builds the history from the rows.
pub fn history(
    now: i64,
    counters: &[&'static str],
    counts: Vec<CountRow>,
    sketches: &[SketchRow],
) -> History {
    let mut values: HashMap<(i16, i64), HashMap<String, u64>> = HashMap::new();
    for (resolution, number, name, value) in counts {
        let bucket = values.entry((resolution, number)).or_default();
        bucket.insert(name, u64::try_from(value).unwrap_or(0));
    }
    let active: HashMap<(i16, i64), u64> = sketches
        .iter()
        .filter_map(|(resolution, number, sketch)| {
            Some(((*resolution, *number), decode(sketch)?.estimate() as u64))
        })
        .collect();
    let bucket = |resolution: Resolution, number: i64| {
        let key = (number_of(resolution), number);
        let names = Counts::FIELDS.iter().chain(counters);
        let value = |name: &&str| {
            let value = values.get(&key).and_then(|values| values.get(*name));
            value.copied().unwrap_or(0)
        };
        let has_sketch = resolution != Resolution::Minute;
        Bucket {
            started_at: number * resolution.seconds(),
            counts: Counts::of(names.map(value)),
            active: has_sketch.then(|| active.get(&key).copied().unwrap_or(0)),
        }
    };
    let buckets = |resolution: Resolution| {
        let numbers = resolution.numbers(now);
        numbers.map(|number| bucket(resolution, number)).collect()
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
    fn a_sketch_counts_each_session_once() {
        let ids: Vec<(Id, i64)> = (0..100_000).map(|_| (Id::default(), 0)).collect();
        let (first, second) = ids.split_at(60_000);
        let mut sketch = add_to_sketch(None, first);
        for seen in [second, first, second] {
            sketch = add_to_sketch(Some(&sketch), seen);
        }
        assert!(sketch.len() < 16_000, "{} bytes", sketch.len());
        let count = decode(&sketch).expect("a sketch").estimate();
        assert!((97_500..102_500).contains(&count), "{count}");
        assert_eq!(decode(b"no sketch").map(|sketch| sketch.estimate()), None);
    }

    #[test]
    fn the_history_shows_what_a_batch_adds() {
        let batch = StatsBatch {
            now: NOW,
            counters: vec!["orders"],
            counts: Counts::of([1, 2, 0, 4, 5, 6, 7]),
            seen: vec![(Id(1), 0), (Id(2), 0)],
            ..StatsBatch::default()
        };
        let sketch = |(resolution, number)| (resolution, number, add_to_sketch(None, &batch.seen));
        let sketches: Vec<SketchRow> = sketch_keys(&batch).into_iter().map(sketch).collect();
        let history = history(NOW, &["orders"], count_rows(&batch), &sketches);
        for (buckets, active) in [
            (&history.minutes, None),
            (&history.hours, Some(2)),
            (&history.days, Some(2)),
        ] {
            let last = buckets.last().expect("a bucket");
            assert_eq!(last.counts, batch.counts);
            assert_eq!(last.active, active);
            assert!(buckets[0].counts.is_zero());
        }
        assert!(oldest(NOW)[0].1 < Resolution::Minute.number(NOW) - 60);
    }
}
