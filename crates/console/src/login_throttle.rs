//! How often passwords may be tried: by one address, and by all together. Nobody can use these limits
//! to lock the operator out: a browser that the console knows has an allowance of its own, which
//! strangers can't use up. It knows those that have signed in before, and those that have opened a
//! sign-in link.
//!
//! Each server counts for itself, and forgets at its end.

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

/// An address, and a browser that the console knows, may try so often at once,
const AT_ONCE: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// and then once in so long: some 3,000 times a day.
const ONE_ADDRESS: Duration = Duration::from_secs(30);
const ONE_BROWSER: Duration = Duration::from_secs(10);

/// All unknown browsers together may try so often at once,
const ALL_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// and then once in so long: some 30,000 times a day, however many addresses somebody has.
const ALL: Duration = Duration::from_secs(3);

/// How often what is no longer needed is forgotten.
const EVICT_INTERVAL: Duration = Duration::from_secs(60);

/// So many lines a minute tell of attempts that were not even looked at.
const LINES: NonZeroU32 = NonZeroU32::new(6).expect("not zero");

/// Who tries.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub address: IpAddr,
    /// The session of a browser that the console knows.
    pub known: Option<Id>,
}

/// What was tried lately.
#[derive(Debug)]
pub struct LoginThrottle {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    browsers: DefaultKeyedRateLimiter<Id>,
    all: DefaultDirectRateLimiter,
    lines: DefaultDirectRateLimiter,
    clock: DefaultClock,
    evicted_at: Mutex<Instant>,
}

impl Default for LoginThrottle {
    fn default() -> Self {
        let keyed = |period| quota(period, AT_ONCE);
        Self {
            addresses: DefaultKeyedRateLimiter::keyed(keyed(ONE_ADDRESS)),
            browsers: DefaultKeyedRateLimiter::keyed(keyed(ONE_BROWSER)),
            all: DefaultDirectRateLimiter::direct(quota(ALL, ALL_AT_ONCE)),
            lines: DefaultDirectRateLimiter::direct(Quota::per_minute(LINES)),
            clock: DefaultClock::default(),
            evicted_at: Mutex::new(Instant::now()),
        }
    }
}

fn quota(period: Duration, at_once: NonZeroU32) -> Quota {
    // The periods above are not zero, for which alone there is no quota.
    Quota::with_period(period)
        .unwrap_or(Quota::per_minute(at_once))
        .allow_burst(at_once)
}

impl LoginThrottle {
    /// Whether this attempt may be made.
    ///
    /// # Errors
    /// The seconds after which another one may, at least one.
    pub fn admit(&self, attempt: Attempt) -> Result<(), u64> {
        self.evict_idle();
        let checked = if let Some(browser) = attempt.known {
            self.browsers.check_key(&browser)
        } else {
            let address = rate_limit_key(attempt.address);
            let admitted = self.addresses.check_key(&address);
            admitted.and_then(|()| self.all.check())
        };
        checked.map_err(|until| wait(&until, &self.clock))
    }

    /// Whether an attempt that was not admitted is worth a line in the log: a flood is not worth
    /// one each.
    pub fn is_worth_a_line(&self) -> bool {
        self.lines.check().is_ok()
    }

    /// Removes the clients whose whole allowance is back, at most once a minute.
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

/// The seconds until a limiter admits again, at least one.
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
            known: None,
        }
    }

    #[test]
    fn an_address_has_an_allowance_and_so_have_all_together() {
        let throttle = LoginThrottle::default();
        for _ in 0..AT_ONCE.get() {
            assert_eq!(throttle.admit(from([192, 0, 2, 1])), Ok(()));
        }
        assert_eq!(throttle.admit(from([192, 0, 2, 1])), Err(30));
        for address in 2..=16 {
            assert_eq!(throttle.admit(from([192, 0, 2, address])), Ok(()));
        }
        assert_eq!(throttle.admit(from([192, 0, 2, 99])), Err(3));
    }

    #[test]
    fn strangers_can_not_lock_the_operator_out() {
        let throttle = LoginThrottle::default();
        for address in 0..100 {
            let _ = throttle.admit(from([192, 0, 2, address]));
        }
        let known = Attempt {
            known: Some(Id(7)),
            ..from([192, 0, 2, 1])
        };
        for _ in 0..AT_ONCE.get() {
            assert_eq!(throttle.admit(known), Ok(()));
        }
        assert_eq!(throttle.admit(known), Err(10));
    }
}
