//! The deploy warnings that the database servers share.

use time::OffsetDateTime;
use tower_sessions::session_store;

use crate::{expiry::now, store::Values};

/// The name of the value that is written to check whether the database accepts writes.
const PROBE: &str = "probe";

/// By how many seconds the clocks of this server and of the database may differ.
const CLOCK_TOLERANCE: i64 = 1;

/// Checks whether the database accepts writes.
///
/// # Errors
/// When it does not, or does not respond.
pub async fn check_writable(values: &dyn Values) -> session_store::Result<()> {
    let later = OffsetDateTime::now_utc() + time::Duration::minutes(1);
    values.set_value(PROBE, "", later).await
}

/// Warns if the server may open more connections than the database allows.
pub fn connections_warning(database: &str, needed: i64, allowed: i64) -> Option<String> {
    (needed > allowed).then(|| {
        format!(
            "this server alone may open {needed} connections, but {database} allows {allowed}: \
             lower sessions.store_connections or raise max_connections"
        )
    })
}

/// Warns if the clocks differ. `time`: the database's clock, in seconds since 1970.
pub fn clock_warning(database: &str, time: i64) -> Option<String> {
    let difference = (time - now()).abs();
    (difference > CLOCK_TOLERANCE).then(|| {
        format!("the clocks of this machine and of {database} differ by {difference} seconds")
    })
}
