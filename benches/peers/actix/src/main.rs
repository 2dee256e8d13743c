//! A visit counter as actix-session's documentation shows it.
//! `actix-counter PORT REDIS_URL`

use actix_session::{Session, SessionMiddleware, storage::RedisSessionStore};
use actix_web::{App, Error, HttpServer, cookie::Key, web};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

async fn visit(session: Session) -> Result<String, Error> {
    let visits = session.get::<u64>("visits")?.unwrap_or(0) + 1;
    session.insert("visits", visits)?;
    Ok(visits.to_string())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("a port")?.parse()?;
    let redis = arguments.next().ok_or("a Redis URL")?;
    let store = RedisSessionStore::new(redis).await?;
    let key = Key::generate();
    let app = move || {
        let sessions = SessionMiddleware::builder(store.clone(), key.clone()).cookie_secure(false);
        let visits = web::resource("/").get(visit).post(visit);
        App::new().wrap(sessions.build()).service(visits)
    };
    HttpServer::new(app).bind(("127.0.0.1", port))?.run().await?;
    Ok(())
}
