//! The rate limit on new sessions of each address. It keeps clients without cookies from filling the store. A client
//! that has a session is never limited.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{
    DefaultKeyedRateLimiter, NotUntil, Quota,
    clock::{Clock, DefaultClock},
};

/// How fast one address may create sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of sessions at once.
    pub burst: NonZeroU32,
    /// The number of sessions per second after a burst.
    pub per_second: NonZeroU32,
}

/// Limits how fast each address creates sessions.
#[derive(Debug)]
pub struct CreationLimiter {
    limiter: Option<DefaultKeyedRateLimiter<IpAddr>>,
    clock: DefaultClock,
}

impl CreationLimiter {
    /// `None`: no limit.
    pub fn new(rate: Option<Rate>) -> Self {
        let limiter = rate.map(|rate| {
            let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
            DefaultKeyedRateLimiter::keyed(quota)
        });
        Self {
            limiter,
            clock: DefaultClock::default(),
        }
    }

    /// Counts a new session of an address, if the limit allows it.
    ///
    /// # Errors
    /// The seconds until the address may create another session, at least one.
    pub fn admit(&self, address: IpAddr) -> Result<(), u64> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let checked = limiter.check_key(&rate_limit_key(address));
        checked.map_err(|until| wait(&until, &self.clock))
    }

    /// Forgets addresses whose full burst is available again.
    pub fn evict_idle(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// The seconds until the limiter admits another session, at least one.
fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>, clock: &DefaultClock) -> u64 {
    let wait = until.wait_time_from(clock.now());
    wait.as_secs().saturating_add(1)
}

/// The key by which an address is limited: an IPv4 address, or the /64 network of an IPv6 address.
///
/// A client that has one IPv6 address usually has all 2^64 addresses of its network.
pub fn rate_limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(burst: u32) -> CreationLimiter {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        CreationLimiter::new(Some(Rate {
            burst: number(burst),
            per_second: number(1),
        }))
    }

    #[test]
    fn each_address_has_its_own_limit() {
        let limiter = limiter(2);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            assert_eq!(limiter.admit(address(client)), Ok(()));
            assert_eq!(limiter.admit(address(client)), Ok(()));
            assert_eq!(limiter.admit(address(client)), Err(1));
        }
        assert_eq!(limiter.admit(address("2001:db8::ffff")), Err(1));
        assert_eq!(limiter.admit(address("2001:db8:0:1::1")), Ok(()));
        assert_eq!(limiter.admit(address("::ffff:192.0.2.1")), Err(1));
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limiter = CreationLimiter::new(None);
        let address = IpAddr::from([192, 0, 2, 1]);
        assert!((0..10_000).all(|_| limiter.admit(address) == Ok(())));
    }
}
