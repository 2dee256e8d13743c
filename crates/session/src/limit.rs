//! A limit on the making of new sessions, for each address: a flood of clients without cookies
//! fills no store. A client that has a session is never held up by it.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{
    DefaultKeyedRateLimiter, NotUntil, Quota,
    clock::{Clock, DefaultClock},
};

/// How fast one address may make sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: NonZeroU32,
    /// Then so many in each second.
    pub per_second: NonZeroU32,
}

/// What each address has made lately. Addresses that have rested long enough are forgotten.
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

    /// Whether the address may make one more session now.
    ///
    /// # Errors
    /// The seconds after which it may, at least one.
    pub fn admit(&self, address: IpAddr) -> Result<(), u64> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let checked = limiter.check_key(&rate_limit_key(address));
        checked.map_err(|until| wait(&until, &self.clock))
    }

    /// Forgets the addresses that have all of their allowance again.
    pub fn evict_idle(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// The seconds until a limiter admits again, at least one.
fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>, clock: &DefaultClock) -> u64 {
    let wait = until.wait_time_from(clock.now());
    wait.as_secs().saturating_add(1)
}

/// What an address is limited by: a client that has one IPv6 address has the 2^64 of its network.
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
    fn each_address_has_its_own_allowance() {
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
