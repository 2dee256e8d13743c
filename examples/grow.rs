//! Enlarges sessions, for the benchmark.
//!
//! `grow STORE_URL BYTES KEY...` adds a text of BYTES bytes to each session with one of the keys.

use std::error::Error;

use tally_session::store::{self, StoreOptions, StoreUrl};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("a store's URL")?;
    let bytes: usize = arguments.next().ok_or("a number of bytes")?.parse()?;
    let url = StoreUrl::parse(&url)?;
    let options = StoreOptions::new(url);
    let store = store::open(&options).await?;
    for key in arguments {
        let id = key.strip_prefix(&options.prefix).unwrap_or(&key).parse()?;
        let mut record = store.load(&id).await?.ok_or("no such session")?;
        let session = record.data.get_mut("tally").ok_or("not a session")?;
        session["state"]["kept"] = "x".repeat(bytes).into();
        store.save(&record).await?;
    }
    Ok(())
}
