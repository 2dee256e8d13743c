//! A test suite for stores of your own.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration as Wait};

use time::{Duration, OffsetDateTime};
use tokio::{task::JoinSet, time::timeout};
use tower_sessions::session::{Id, Record};

use super::store::{
    ChangeEvent, Counts, EncodedRecord, StatsBatch, Store, Swap, UserEntry, values,
};

/// How long a change feed may take to report a change.
const FEED_TIMEOUT: Wait = Wait::from_secs(10);

/// The number of concurrent writers.
const WRITERS: i64 = 16;

/// How many times each writer writes.
const WRITES: i64 = 8;

/// Checks that a store behaves as sessions need it. It creates its own records under random ids, and removes them.
///
/// ```
/// use std::sync::Arc;
/// use tally_session::{store::SingleServer, testing::check_store};
/// use tower_sessions::MemoryStore;
///
/// # async fn check() {
/// check_store(Arc::new(SingleServer::new(MemoryStore::default()))).await;
/// # }
/// ```
///
/// # Panics
/// When the store does not. The message says what was expected.
pub async fn check_store(store: Arc<dyn Store>) {
    let store = &store;
    records_round_trip(store).await;
    a_swap_replaces_only_the_expected_record(store).await;
    a_deletion_removes_only_the_expected_record(store).await;
    a_swap_does_not_revive_a_deleted_record(store).await;
    an_expired_record_is_not_loaded(store).await;
    concurrent_writes_are_not_lost(store).await;
    the_change_feed_reports_changes(store).await;
    the_index_lists_sessions(store).await;
    a_scan_returns_every_session(store).await;
    a_value_is_taken_only_once(store).await;
    the_index_of_users_finds_sign_ins(store).await;
    statistics_add_up(store).await;
}

/// A record that expires after this number of seconds.
fn record(seconds: i64, value: impl Into<serde_json::Value>) -> Record {
    let now = OffsetDateTime::now_utc();
    Record {
        id: Id::default(),
        data: HashMap::from([("tally".to_owned(), value.into())]),
        // In whole seconds, because some stores keep no fractions.
        expiry_date: now.replace_nanosecond(0).unwrap_or(now) + Duration::seconds(seconds),
    }
}

async fn create(store: &Arc<dyn Store>, record: &mut Record) {
    expect_ok(store.create(record).await, "create");
}

async fn load(store: &Arc<dyn Store>, id: &Id) -> Option<Record> {
    expect_ok(store.load(id).await, "load")
}

async fn delete(store: &Arc<dyn Store>, id: &Id) {
    expect_ok(store.delete(id).await, "delete");
}

fn expect_ok<T>(result: Result<T, impl Debug>, operation: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{operation} failed: {error:?}"),
    }
}

/// The same record with another value.
fn changed(old: &Record, value: impl Into<serde_json::Value>) -> EncodedRecord {
    let mut new = old.clone();
    new.data.insert("tally".to_owned(), value.into());
    EncodedRecord::from(new)
}

async fn swap(store: &Arc<dyn Store>, old: &EncodedRecord, new: &EncodedRecord) -> bool {
    let swapped = store.compare_and_swap(old, new).await;
    matches!(expect_ok(swapped, "compare_and_swap"), Swap::Saved)
}

async fn records_round_trip(store: &Arc<dyn Store>) {
    assert_eq!(
        load(store, &Id::default()).await,
        None,
        "a record that was never created is loaded"
    );
    // A value larger than most buffers, and an expiry after 2038.
    let long = "zäh 🦀 \0".repeat(10_000);
    for mut record in [
        record(60, "small"),
        record(60, long),
        record(600_000_000, "late"),
    ] {
        create(store, &mut record).await;
        assert_eq!(load(store, &record.id).await.as_ref(), Some(&record));
        delete(store, &record.id).await;
        assert_eq!(
            load(store, &record.id).await,
            None,
            "a deleted record is loaded"
        );
    }
    delete(store, &Id::default()).await;
}

async fn a_swap_replaces_only_the_expected_record(store: &Arc<dyn Store>) {
    let mut first = record(60, "first");
    create(store, &mut first).await;
    let (second, third) = (changed(&first, "second"), changed(&first, "third"));
    let first = EncodedRecord::from(first);
    assert!(
        swap(store, &first, &second).await,
        "a swap of the stored record fails"
    );
    assert!(
        !swap(store, &first, &third).await,
        "a swap of an outdated record succeeds"
    );
    assert_eq!(load(store, &first.id).await.as_ref(), Some(&*second));
    assert!(
        swap(store, &second, &third).await,
        "a swap of the stored record fails"
    );
    delete(store, &first.id).await;
}

async fn a_deletion_removes_only_the_expected_record(store: &Arc<dyn Store>) {
    let mut first = record(60, "first");
    create(store, &mut first).await;
    let second = changed(&first, "second");
    let first = EncodedRecord::from(first);
    let deleted = expect_ok(
        store.compare_and_delete(&second).await,
        "compare_and_delete",
    );
    assert!(!deleted, "a deletion of another record succeeds");
    assert!(load(store, &first.id).await.is_some());
    let deleted = expect_ok(store.compare_and_delete(&first).await, "compare_and_delete");
    assert!(deleted, "a deletion of the stored record fails");
    assert_eq!(
        load(store, &first.id).await,
        None,
        "a deleted record is loaded"
    );
}

async fn a_swap_does_not_revive_a_deleted_record(store: &Arc<dyn Store>) {
    let mut first = record(60, "first");
    create(store, &mut first).await;
    delete(store, &first.id).await;
    let second = changed(&first, "second");
    let first = EncodedRecord::from(first);
    assert!(
        !swap(store, &first, &second).await,
        "a swap of a deleted record succeeds"
    );
    assert_eq!(
        load(store, &first.id).await,
        None,
        "a swap revives a deleted record"
    );
}

async fn an_expired_record_is_not_loaded(store: &Arc<dyn Store>) {
    let mut short = record(2, "short");
    create(store, &mut short).await;
    let deadline = OffsetDateTime::now_utc() + Duration::seconds(30);
    while load(store, &short.id).await.is_some() {
        assert!(
            OffsetDateTime::now_utc() < deadline,
            "an expired record is loaded"
        );
        tokio::task::yield_now().await;
    }
    assert!(OffsetDateTime::now_utc() >= short.expiry_date - Duration::seconds(1));
    if let Some(expired) = store.delete_expired() {
        expect_ok(expired.delete_expired(1_000).await, "delete_expired");
        assert_eq!(load(store, &short.id).await, None);
    }
}

async fn concurrent_writes_are_not_lost(store: &Arc<dyn Store>) {
    let mut counter = record(60, 0);
    create(store, &mut counter).await;
    let id = counter.id;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for _ in 0..WRITES {
                add_one(&store, &id).await;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        expect_ok(ended, "a writer");
    }
    let total = load(store, &id).await.map(|record| count(&record));
    assert_eq!(total, Some(WRITERS * WRITES), "concurrent writes were lost");
    delete(store, &id).await;
}

fn count(record: &Record) -> i64 {
    record.data["tally"].as_i64().unwrap_or(-1)
}

async fn add_one(store: &Arc<dyn Store>, id: &Id) {
    loop {
        let Some(record) = load(store, id).await else {
            panic!("the record is gone");
        };
        let new = changed(&record, count(&record) + 1);
        if swap(store, &EncodedRecord::from(record), &new).await {
            return;
        }
    }
}

async fn the_change_feed_reports_changes(store: &Arc<dyn Store>) {
    let Some(feed) = store.change_feed() else {
        return;
    };
    let mut first = record(60, "first");
    create(store, &mut first).await;
    expect_ok(feed.subscribe(&first.id).await, "subscribe");
    let second = changed(&first, "second");
    assert!(swap(store, &EncodedRecord::from(first.clone()), &second).await);
    let wait_for_event = async {
        loop {
            match feed.next_event().await {
                ChangeEvent::Changed(id) if id == first.id => return,
                ChangeEvent::Lagged => return,
                ChangeEvent::Changed(_) => {}
            }
        }
    };
    assert!(
        timeout(FEED_TIMEOUT, wait_for_event).await.is_ok(),
        "the change feed does not report a change"
    );
    expect_ok(feed.unsubscribe(&first.id).await, "unsubscribe");
    delete(store, &first.id).await;
}

/// A store that writes its index in the background may not list a new session yet, so an empty result is right too.
async fn the_index_lists_sessions(store: &Arc<dyn Store>) {
    let Some(index) = store.index() else {
        return;
    };
    let mut session = record(60, "listed");
    create(store, &mut session).await;
    let found = expect_ok(index.search(&session.id.to_string(), 10).await, "search");
    let ids: Vec<Id> = found.iter().map(|record| record.id).collect();
    assert!(ids.is_empty() || ids == [session.id], "{ids:?}");
    let count = expect_ok(index.count().await, "count");
    assert!(
        count >= ids.len() as u64,
        "the index counts fewer sessions than it lists"
    );
    delete(store, &session.id).await;
    let found = expect_ok(index.search(&session.id.to_string(), 10).await, "search");
    assert!(found.is_empty(), "the index lists a deleted session");
}

async fn a_scan_returns_every_session(store: &Arc<dyn Store>) {
    let Some(index) = store.index() else {
        return;
    };
    let mut sessions: Vec<Record> = (0..3).map(|number| record(60, number)).collect();
    for session in &mut sessions {
        create(store, session).await;
    }
    let mut scan = expect_ok(index.scan().await, "scan");
    let mut seen = Vec::new();
    while let Some(batch) = expect_ok(scan.next().await, "next") {
        seen.extend(batch);
    }
    assert!(scan.has_seen_all(), "an undisturbed scan is incomplete");
    for session in &sessions {
        assert!(seen.contains(session), "the scan misses {session:?}");
        delete(store, &session.id).await;
    }
}

async fn a_value_is_taken_only_once(store: &Arc<dyn Store>) {
    let (name, store) = (Id::default().to_string(), store.as_ref());
    let later = OffsetDateTime::now_utc() + Duration::seconds(60);
    assert_eq!(expect_ok(values::get(store, &name).await, "value"), None);
    for value in ["first", "second"] {
        expect_ok(values::set(store, &name, value, later).await, "set_value");
        let found = expect_ok(values::get(store, &name).await, "value");
        assert_eq!(found.as_deref(), Some(value));
    }
    let (first, second) = tokio::join!(values::take(store, &name), values::take(store, &name));
    let taken = [
        expect_ok(first, "take_value"),
        expect_ok(second, "take_value"),
    ];
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    assert_eq!(taken, ["second"], "exactly one caller gets the value");
    assert_eq!(expect_ok(values::get(store, &name).await, "value"), None);
}

async fn the_index_of_users_finds_sign_ins(store: &Arc<dyn Store>) {
    let Some(users) = store.users() else {
        return;
    };
    let (ada, bob) = (Id::default().to_string(), Id::default().to_string());
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let entry = |user: &str, number: u64, realm: &str| UserEntry {
        user: user.to_owned(),
        id: Id::default(),
        realm: realm.to_owned(),
        number,
        signed_in_at: now,
        check_at: now + 60,
    };
    let mine = [entry(&ada, u64::MAX, "members"), entry(&ada, 1, "console")];
    let others = [entry(&bob, 2, "members")];
    for entries in [&mine[..], &mine[..], &others[..]] {
        expect_ok(users.add(entries).await, "add");
    }
    let numbers = |mut found: Vec<UserEntry>| {
        found.sort_by_key(|entry| entry.number);
        found
            .into_iter()
            .map(|entry| (entry.id, entry.number, entry.realm))
            .collect::<Vec<_>>()
    };
    let expected = [&mine[1], &mine[0]].map(|entry| (entry.id, entry.number, entry.realm.clone()));
    assert_eq!(
        numbers(expect_ok(users.entries(&ada).await, "entries")),
        expected
    );
    let is_mine = |entry: &&UserEntry| entry.user == ada;
    let due = expect_ok(users.due(now + 59, 1_000).await, "due");
    assert_eq!(
        due.iter().filter(is_mine).count(),
        0,
        "an entry is due too early"
    );
    let due = expect_ok(users.due(now + 60, 1_000).await, "due");
    assert_eq!(due.iter().filter(is_mine).count(), 2, "an entry is not due");
    expect_ok(users.remove(&mine[..1]).await, "remove");
    assert!(expect_ok(users.count().await, "count") >= 2);
    let left = expect_ok(users.entries(&ada).await, "entries");
    assert_eq!(numbers(left), &expected[..1]);
    for entries in [&mine, &mine] {
        expect_ok(users.remove(entries).await, "remove");
    }
    assert_eq!(expect_ok(users.entries(&ada).await, "entries"), []);
    assert_eq!(expect_ok(users.entries(&bob).await, "entries").len(), 1);
    expect_ok(users.remove(&others).await, "remove");
    expect_ok(users.set_complete().await, "set_complete");
    assert!(expect_ok(users.is_complete().await, "is_complete"));
}

async fn statistics_add_up(store: &Arc<dyn Store>) {
    let Some(stats) = store.stats() else {
        return;
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "any number will do"
    )]
    let server = Id::default().0 as u64;
    let batch = |server: u64, number: u64, count: u64| StatsBatch {
        server,
        number,
        now,
        counters: vec!["suite"],
        counts: Counts {
            counters: vec![count],
            ..Counts::default()
        },
        seen: vec![(Id::default(), now + 60)],
        ..StatsBatch::default()
    };
    let last_counts = async || {
        let history = expect_ok(stats.history(now, &["suite"]).await, "history");
        [history.minutes, history.hours, history.days].map(|buckets| {
            let last = buckets.last().map(|bucket| bucket.counts.counters.clone());
            last.unwrap_or_default().first().copied().unwrap_or(0)
        })
    };
    let before = last_counts().await;
    let (first, second) = (batch(server, 1, 3), batch(server, 2, 4));
    let other = batch(server.wrapping_add(1), 1, 10);
    // A batch that is recorded twice counts once.
    for batch in [&first, &first, &other, &second, &second] {
        expect_ok(stats.record(batch).await, "record");
    }
    assert_eq!(last_counts().await, before.map(|count| count + 17));
    let history = expect_ok(stats.history(now, &["suite"]).await, "history");
    for buckets in [history.hours, history.days] {
        let active = buckets.last().and_then(|bucket| bucket.active);
        assert!(active >= Some(3), "active sessions are missing: {active:?}");
    }
    assert!(
        expect_ok(stats.backfill(true).await, "backfill"),
        "the index is incomplete after a backfill"
    );
}
