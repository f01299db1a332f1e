//! What to do about the served certificate: a pure function of what is trusted and the time.
//!
//! An API server learns of a new `caBundle` a moment after it was written. So a certificate of a new CA is served only
//! once that CA has been in both bundles for a while. Until then the old certificate is served, and its CA stays in
//! the bundles.

use std::time::{Duration, SystemTime};

use crate::authority::Validity;

/// The certificate that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// When it is valid.
    pub validity: Validity,
    /// When the CA that signed it expires. The key of that CA is known.
    pub signer_until: SystemTime,
    /// Whether that CA is the shared one.
    pub current: bool,
    /// Whether that CA is in the live bundles.
    pub trusted: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Keep serving it; check again at this time.
    Keep(SystemTime),
    /// Serve a new certificate of the shared CA.
    Issue,
    /// Serve a new certificate of the CA that signed the served one: the shared CA has not been trusted for long
    /// enough.
    Renew,
}

/// Decides. `since` is when the shared CA was first seen in the live bundles of both configurations, if it is there
/// now; `settle` is how long it must have been there.
pub fn next(
    served: Option<Served>,
    since: Option<SystemTime>,
    settle: Duration,
    now: SystemTime,
) -> Next {
    let Some(served) = served.filter(|served| served.validity.holds(now)) else {
        return Next::Issue;
    };
    if served.current {
        return match renewal(&served) {
            due if due <= now => Next::Issue,
            due => Next::Keep(due),
        };
    }
    let settled = since.map(|since| since + settle);
    if !served.trusted || settled.is_some_and(|settled| settled <= now) {
        return Next::Issue;
    }
    match renewal(&served) {
        due if due <= now => Next::Renew,
        due => Next::Keep(settled.map_or(due, |settled| settled.min(due))),
    }
}

/// Until when a replica that has just got its first certificate is not ready: an API server may not know the CA yet, and
/// other replicas still serve certificates of an older one. `created` is when the CA was made; `beside` says whether an
/// older one that is valid is trusted beside it.
pub fn settles(
    created: SystemTime,
    beside: bool,
    settle: Duration,
    now: SystemTime,
) -> Option<SystemTime> {
    let settled = created + settle;
    (beside && now < settled).then_some(settled)
}

/// When a new certificate of the same CA is due. A certificate that expires with its CA is kept to the end: a new one
/// would not last longer.
pub fn renewal(served: &Served) -> SystemTime {
    if served.validity.until >= served.signer_until {
        served.validity.until
    } else {
        served.validity.renewal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const SETTLE: Duration = MINUTE;

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    fn minute(minute: u32) -> SystemTime {
        start() + minute * MINUTE
    }

    /// Issued at the start for 30 minutes, by a CA that ends after `signer` minutes.
    #[allow(clippy::unnecessary_wraps, reason = "as the table has it")]
    fn served(signer: u32, current: bool, trusted: bool) -> Option<Served> {
        let validity = Validity {
            from: start() - 5 * MINUTE,
            until: minute(30),
        };
        Some(Served {
            validity,
            signer_until: minute(signer),
            current,
            trusted,
        })
    }

    #[test]
    fn who_starts_amid_a_change_of_the_ca_waits_like_the_others() {
        let table = [
            ("the first CA", false, 0, None),
            ("a change that began just now", true, 0, Some(minute(1))),
            ("a change that has settled", true, 1, None),
        ];
        for (what, beside, now, expected) in table {
            let found = settles(start(), beside, SETTLE, minute(now));
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn trust_and_time_decide() {
        let table = [
            ("start-up", None, None, 0, Next::Issue),
            (
                "young",
                served(90, true, true),
                Some(0),
                19,
                Next::Keep(minute(20)),
            ),
            (
                "two thirds old",
                served(90, true, true),
                Some(0),
                20,
                Next::Issue,
            ),
            ("expired", served(90, true, true), Some(0), 30, Next::Issue),
            (
                "of the future",
                served(90, true, true),
                Some(0),
                u32::MAX,
                Next::Issue,
            ),
            (
                "its own CA is not in a bundle, and no other is signed with",
                served(90, true, false),
                None,
                1,
                Next::Keep(minute(20)),
            ),
            (
                "a new CA that is not in a bundle yet",
                served(90, false, true),
                None,
                10,
                Next::Keep(minute(20)),
            ),
            (
                "a new CA that came into the bundles just now",
                served(90, false, true),
                Some(10),
                10,
                Next::Keep(minute(11)),
            ),
            (
                "a new CA that settled",
                served(90, false, true),
                Some(10),
                11,
                Next::Issue,
            ),
            (
                "a new CA, and the old one is in the bundles no more",
                served(90, false, false),
                Some(10),
                10,
                Next::Issue,
            ),
            (
                "due while a new CA settles: the old one signs again",
                served(90, false, true),
                Some(20),
                20,
                Next::Renew,
            ),
            (
                "due while a new CA settles, and the old one has no longer life to give",
                served(30, false, true),
                Some(25),
                25,
                Next::Keep(minute(26)),
            ),
            (
                "expired while a new CA settles",
                served(30, false, true),
                Some(30),
                30,
                Next::Issue,
            ),
        ];
        for (what, served, since, now, expected) in table {
            let now = if now == u32::MAX {
                start() - 6 * MINUTE
            } else {
                minute(now)
            };
            assert_eq!(
                next(served, since.map(minute), SETTLE, now),
                expected,
                "{what}"
            );
        }
    }
}
