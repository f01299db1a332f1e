//! What to do about the shared CA: a pure function of what is stored and the time.

use std::time::SystemTime;

use crate::authority::{self, Authority};

/// What the Secret holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// There is no Secret.
    Nothing,
    /// A Secret that we did not create.
    Foreign,
    /// Our Secret: certificates (PEM, the signing one first) and the signing one's key (PEM).
    Ours {
        /// `ca.crt`.
        certificates: &'a str,
        /// `ca.key`.
        key: &'a str,
    },
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Store a new CA. If another replica is first, use that one's.
    Create,
    /// Sign with this CA, and have clients trust these certificates.
    Use {
        /// The CA.
        authority: Authority,
        /// What goes into `caBundle` (PEM).
        bundle: String,
    },
    /// Store the same CA without the certificates that have expired.
    ///
    /// The Secret is changed, rather than each replica leaving them out of the bundle: with clocks that differ, the
    /// replicas would undo each other's caBundle.
    Drop {
        /// The CA.
        authority: Authority,
        /// The other certificates that stay trusted (PEM).
        keep: Vec<String>,
    },
    /// Replace this CA with a new one.
    Replace {
        /// Why, for the log.
        reason: String,
        /// Certificates that stay trusted, so that leaves signed before still verify (PEM).
        keep: Vec<String>,
    },
    /// Leave the Secret alone and report why.
    Refuse {
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Decides. A CA is replaced when two thirds of its life have passed or when it cannot be used.
pub fn decide(stored: Stored<'_>, now: SystemTime) -> Action {
    let (certificates, key) = match stored {
        Stored::Nothing => return Action::Create,
        Stored::Foreign => {
            let reason =
                "it exists but was not made by this operator; delete it, or choose another name"
                    .to_owned();
            return Action::Refuse { reason };
        }
        Stored::Ours { certificates, key } => (certificates, key),
    };
    let stored = authority::split(certificates);
    let valid = |pem: &String| authority::validity(pem).is_ok_and(|validity| validity.holds(now));
    let still_valid = || -> Vec<_> { stored.iter().filter(|pem| valid(pem)).cloned().collect() };
    match Authority::parse(certificates, key) {
        Err(error) => Action::Replace {
            reason: format!("it is corrupt: {error}"),
            keep: still_valid(),
        },
        Ok(authority) if now < authority.validity.from => Action::Replace {
            reason: "the CA is not valid yet; was the clock set back?".to_owned(),
            keep: Vec::new(),
        },
        Ok(authority) if now >= authority.validity.renewal() => Action::Replace {
            reason: "the CA comes to its end".to_owned(),
            keep: still_valid(),
        },
        Ok(authority) if !stored.iter().all(valid) => Action::Drop {
            keep: still_valid().into_iter().skip(1).collect(),
            authority,
        },
        Ok(authority) => Action::Use {
            bundle: stored.concat(),
            authority,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const DAY: Duration = Duration::from_hours(24);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    fn ca() -> Authority {
        Authority::new("test", start(), 300 * DAY).unwrap()
    }

    fn name(action: &Action) -> String {
        match action {
            Action::Create => "create".to_owned(),
            Action::Use { bundle, .. } => format!("use {}", authority::split(bundle).len()),
            Action::Drop { keep, .. } => format!("drop, keep {}", keep.len()),
            Action::Replace { keep, .. } => format!("replace, keep {}", keep.len()),
            Action::Refuse { .. } => "refuse".to_owned(),
        }
    }

    #[test]
    fn what_is_stored_and_the_time_decide() {
        let (one, other) = (ca(), ca());
        let old = Authority::new("test", start() - 300 * DAY, 300 * DAY + DAY / 2).unwrap();
        let both = format!("{}{}", one.certificate, other.certificate);
        let three = format!("{both}{}", old.certificate);
        let ours = |certificates, key| Stored::Ours { certificates, key };
        let table = [
            ("nothing is stored", Stored::Nothing, start(), "create"),
            ("somebody else's Secret", Stored::Foreign, start(), "refuse"),
            (
                "a CA in its youth",
                ours(&one.certificate, &one.key),
                start() + DAY,
                "use 1",
            ),
            (
                "a CA and its predecessor",
                ours(&both, &one.key),
                start() + DAY,
                "use 2",
            ),
            (
                "a CA, and its predecessor just before its end",
                ours(&three, &one.key),
                start() + DAY / 3,
                "use 3",
            ),
            (
                "a CA, and its predecessor at its end",
                ours(&three, &one.key),
                start() + DAY / 2,
                "drop, keep 1",
            ),
            (
                "a CA in its age",
                ours(&one.certificate, &one.key),
                start() + 201 * DAY,
                "replace, keep 1",
            ),
            (
                "a dead CA",
                ours(&one.certificate, &one.key),
                start() + 301 * DAY,
                "replace, keep 0",
            ),
            (
                "a CA of the future",
                ours(&one.certificate, &one.key),
                start() - DAY,
                "replace, keep 0",
            ),
            (
                "another CA's key",
                ours(&one.certificate, &other.key),
                start(),
                "replace, keep 1",
            ),
            (
                "no key",
                ours(&one.certificate, ""),
                start(),
                "replace, keep 1",
            ),
            (
                "rubbish",
                ours("rubbish", "rubbish"),
                start(),
                "replace, keep 0",
            ),
            ("nothing in it", ours("", ""), start(), "replace, keep 0"),
        ];
        for (what, stored, now, expected) in table {
            assert_eq!(name(&decide(stored, now)), expected, "{what}");
        }
    }

    #[test]
    fn a_leaf_is_no_authority() {
        let leaf = ca().issue(&["a.example".to_owned()], start(), DAY).unwrap();
        assert!(matches!(
            authority::Authority::parse(&authority::to_pem("CERTIFICATE", &leaf.certificate), ""),
            Err(authority::Error::NotAnAuthority)
        ));
    }
}
