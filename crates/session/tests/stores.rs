//! The test suite for stores, on each store that needs no server.

use std::sync::Arc;

use tally_session::{
    store::{self, SingleServer, StoreOptions},
    testing::check_store,
};
use tower_sessions::MemoryStore;

async fn check(url: &str) {
    let options = StoreOptions::new(url.parse().expect("a URL"));
    check_store(store::open(&options).await.expect("opened")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    check("memory:").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_of_tower_sessions_on_one_server() {
    check_store(Arc::new(SingleServer::new(MemoryStore::default()))).await;
}

#[cfg(feature = "file")]
#[tokio::test(flavor = "multi_thread")]
async fn file() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&format!("file://{}", folder.path().display())).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&format!(
        "sqlite://{}",
        folder.path().join("sessions.sqlite3").display()
    ))
    .await;
}
