//! Fills a store with sessions, as a busy site has them: for the benchmark.
//! `fill STORE_URL NUMBER`: makes so many, each with one visit and two weeks to live.

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, stream};
use tally::{server::settings::Settings, visitor::Visitor};
use tally_session::{
    Config, Envelope, SessionId,
    store::{self, Store, StoreOptions, StoreUrl},
};

/// So many are on their way at a time.
const TOGETHER: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("a store's URL")?;
    let number: usize = arguments.next().ok_or("a number")?.parse()?;
    let url = StoreUrl::parse(&url)?;
    let store = store::open(&StoreOptions::new(url)).await?;
    let config = Settings::from_text("", "no file", |_| None)?.sessions;
    stream::iter(0..number)
        .map(|_| make(store.as_ref(), &config))
        .buffer_unordered(TOGETHER)
        .try_collect()
        .await
}

async fn make(store: &dyn Store, config: &Config) -> Result<(), Box<dyn Error>> {
    let mut visitor = Visitor::default();
    visitor.visit();
    let mut stored = Envelope::new(visitor);
    stored.confirmed = true;
    let id = SessionId::generate()?.hashed();
    store.create(&mut stored.record(id, config)?).await?;
    Ok(())
}
