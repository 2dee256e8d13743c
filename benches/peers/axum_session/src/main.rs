//! A visit counter as axum_session's documentation shows it, without its copies in memory: with them, several servers
//! show one visitor several counts.
//! `axum-session-counter PORT REDIS_URL`

use axum::{Router, routing::get};
use axum_session::{Session, SessionConfig, SessionLayer, SessionStore};
use axum_session_redispool::SessionRedisPool;
use mimalloc::MiMalloc;
use redis_pool::RedisPool;
use time::Duration;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

async fn visit(session: Session<SessionRedisPool>) -> String {
    let visits = session.get::<u64>("visits").unwrap_or(0) + 1;
    session.set("visits", visits);
    visits.to_string()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().ok_or("a port")?;
    let redis = arguments.next().ok_or("a Redis URL")?;
    let pool = RedisPool::from(redis::Client::open(redis)?);
    let config = SessionConfig::default().with_secure(false).with_memory_lifetime(Duration::ZERO);
    let store = SessionStore::<SessionRedisPool>::new(Some(pool.into()), config).await?;
    let routes = Router::new().route("/", get(visit).post(visit)).layer(SessionLayer::new(store));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
