//! A visit counter as in the documentation of tower-sessions: no page, no template, no batching.
//!
//! `bare PORT REDIS_URL`

use axum::{Router, http::StatusCode, routing::get};
use fred::prelude::{ClientLike, Config, Pool};
use mimalloc::MiMalloc;
use tower_sessions::{
    Expiry, Session, SessionManagerLayer,
    cookie::{SameSite, time::Duration},
};
use tower_sessions_redis_store::RedisStore;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

async fn visit(session: Session) -> Result<String, StatusCode> {
    let failed = |_| StatusCode::SERVICE_UNAVAILABLE;
    let visits = session.get::<u64>("visits").await.map_err(failed)?.unwrap_or(0) + 1;
    session.insert("visits", visits).await.map_err(failed)?;
    Ok(visits.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().ok_or("a port")?;
    let redis = arguments.next().ok_or("a Redis URL")?;
    let pool = Pool::new(Config::from_url(&redis)?, None, None, None, 4)?;
    pool.init().await?;
    let sessions = SessionManagerLayer::new(RedisStore::new(pool))
        .with_name("sessionid")
        .with_secure(false)
        .with_same_site(SameSite::Lax)
        .with_expiry(Expiry::OnInactivity(Duration::weeks(2)));
    let routes = Router::new().route("/", get(visit).post(visit)).layer(sessions);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
