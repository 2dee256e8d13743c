//! Fills a store with sessions, for the benchmark.
//!
//! `fill STORE_URL NUMBER` creates NUMBER sessions, each with one visit, a lifetime of two weeks, and a sign-in of a
//! different user in the user index.

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, stream};
use tally::{server::settings::Settings, visitor::Visitor};
use tally_session::{
    Config, Envelope, SessionId,
    store::{self, Store, StoreOptions, StoreUrl, UserEntry},
};
use tower_sessions::session::Id;

/// The number of concurrent writes.
const CONCURRENCY: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("a store's URL")?;
    let number: usize = arguments.next().ok_or("a number")?.parse()?;
    let url = StoreUrl::parse(&url)?;
    let store = store::open(&StoreOptions::new(url)).await?;
    let config = Settings::from_text("", "no file", |_| None)?.sessions;
    stream::iter(0..number)
        .map(|_| create(store.as_ref(), &config))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn create(store: &dyn Store, config: &Config) -> Result<(), Box<dyn Error>> {
    let mut visitor = Visitor::default();
    visitor.visit();
    let mut envelope = Envelope::new(visitor);
    envelope.confirmed = true;
    let id = SessionId::generate()?.hashed();
    let mut record = envelope.record(id, config)?;
    store.create(&mut record).await?;
    if let Some(users) = store.users() {
        let now = envelope.created_at;
        let entry = UserEntry {
            user: Id::default().to_string(),
            id,
            realm: "members".to_owned(),
            number: 1,
            signed_in_at: now,
            check_at: record.expiry_date.unix_timestamp(),
        };
        users.add(&[entry]).await?;
    }
    Ok(())
}
