//! Rate limits for password attempts, per address and overall.
//!
//! An attacker can't use these limits to lock the operator out: a trusted browser has a limit of its own, which others
//! can't exhaust. A browser is trusted if it has signed in before or has opened a sign-in link.
//!
//! Each server counts on its own, in memory.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota,
    clock::{Clock, DefaultClock},
};
use tower_sessions::session::Id;

use tally_session::rate_limit_key;

/// The number of attempts that one address, or one trusted browser, may make at once.
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// After the burst, an address may make one attempt in this period: about 2,900 a day.
const ADDRESS_PERIOD: Duration = Duration::from_secs(30);

/// After the burst, a trusted browser may make one attempt in this period.
const BROWSER_PERIOD: Duration = Duration::from_secs(10);

/// The number of attempts that all untrusted browsers together may make at once.
const TOTAL_BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// After the burst, all untrusted browsers together may make one attempt in this period: about 29,000 a day, however
/// many addresses an attacker has.
const TOTAL_PERIOD: Duration = Duration::from_secs(3);

/// The minimum time between two evictions of idle clients.
const EVICT_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum number of log lines per minute about rejected attempts.
const LOG_LINES: NonZeroU32 = NonZeroU32::new(6).expect("not zero");

/// The client that tries a password.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub address: IpAddr,
    /// The id of the session, if the console trusts the browser.
    pub trusted_browser: Option<Id>,
}

/// Limits how often passwords may be tried.
#[derive(Debug)]
pub struct LoginThrottle {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    browsers: DefaultKeyedRateLimiter<Id>,
    total: DefaultDirectRateLimiter,
    log_lines: DefaultDirectRateLimiter,
    clock: DefaultClock,
    evicted_at: Mutex<Instant>,
}

impl Default for LoginThrottle {
    fn default() -> Self {
        let keyed = |period| quota(period, BURST);
        Self {
            addresses: DefaultKeyedRateLimiter::keyed(keyed(ADDRESS_PERIOD)),
            browsers: DefaultKeyedRateLimiter::keyed(keyed(BROWSER_PERIOD)),
            total: DefaultDirectRateLimiter::direct(quota(TOTAL_PERIOD, TOTAL_BURST)),
            log_lines: DefaultDirectRateLimiter::direct(Quota::per_minute(LOG_LINES)),
            clock: DefaultClock::default(),
            evicted_at: Mutex::new(Instant::now()),
        }
    }
}

fn quota(period: Duration, burst: NonZeroU32) -> Quota {
    // `with_period` returns `None` only for a period of zero, and none of the periods above is zero.
    Quota::with_period(period)
        .unwrap_or(Quota::per_minute(burst))
        .allow_burst(burst)
}

impl LoginThrottle {
    /// Checks whether an attempt is allowed, and counts it.
    ///
    /// # Errors
    /// Returns the number of seconds until the next attempt is allowed, at least 1.
    pub fn admit(&self, attempt: Attempt) -> Result<(), u64> {
        self.evict_idle();
        let checked = if let Some(browser) = attempt.trusted_browser {
            self.browsers.check_key(&browser)
        } else {
            let address = rate_limit_key(attempt.address);
            let admitted = self.addresses.check_key(&address);
            admitted.and_then(|()| self.total.check())
        };
        checked.map_err(|until| wait(&until, &self.clock))
    }

    /// Whether to log a rejected attempt. Limited, so that a flood of attempts does not flood the log.
    pub fn should_log(&self) -> bool {
        self.log_lines.check().is_ok()
    }

    /// Removes the clients whose burst is fully available again, at most once a minute.
    fn evict_idle(&self) {
        let mut evicted_at = self
            .evicted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if evicted_at.elapsed() < EVICT_INTERVAL {
            return;
        }
        *evicted_at = Instant::now();
        drop(evicted_at);
        self.addresses.retain_recent();
        self.browsers.retain_recent();
    }
}

/// The number of seconds until a limiter allows the next attempt, at least 1.
fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>, clock: &DefaultClock) -> u64 {
    let wait = until.wait_time_from(clock.now());
    wait.as_secs().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: [u8; 4]) -> Attempt {
        Attempt {
            address: address.into(),
            trusted_browser: None,
        }
    }

    #[test]
    fn attempts_are_limited_per_address_and_in_total() {
        let throttle = LoginThrottle::default();
        for _ in 0..BURST.get() {
            assert_eq!(throttle.admit(from([192, 0, 2, 1])), Ok(()));
        }
        assert_eq!(throttle.admit(from([192, 0, 2, 1])), Err(30));
        for address in 2..=16 {
            assert_eq!(throttle.admit(from([192, 0, 2, address])), Ok(()));
        }
        assert_eq!(throttle.admit(from([192, 0, 2, 99])), Err(3));
    }

    #[test]
    fn strangers_can_not_lock_out_the_operator() {
        let throttle = LoginThrottle::default();
        for address in 0..100 {
            let _ = throttle.admit(from([192, 0, 2, address]));
        }
        let operator = Attempt {
            trusted_browser: Some(Id(7)),
            ..from([192, 0, 2, 1])
        };
        for _ in 0..BURST.get() {
            assert_eq!(throttle.admit(operator), Ok(()));
        }
        assert_eq!(throttle.admit(operator), Err(10));
    }
}
