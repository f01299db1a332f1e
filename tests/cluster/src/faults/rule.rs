//! Which requests something is done to, and what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Request;

/// What is done to a request.
#[derive(Clone)]
pub enum Fault {
    /// It is answered with this HTTP status, and the API server never sees it.
    Answer(u16),
    /// As 429, with `Retry-After` in seconds.
    TooMany(u32),
    /// The connection is cut, and the API server never sees it.
    Cut,
    /// The API server does it; then the connection is cut, and the answer is lost.
    LoseAnswer,
    /// It is held up for this long, then passed on.
    Delay(Duration),
    /// Nothing ever comes, and the API server never sees it.
    Hang,
    /// Its answer begins, and then nothing more comes of it: a watch that goes silent.
    Silence,
    /// Its answer begins, and is cut after this time.
    CutAfter(Duration),
    /// The resourceVersion that it names is too old: 410.
    Expire,
    /// It gets the first answer that was given to this very request; a list as it was long ago.
    Replay,
    /// This is called, and the request is lost.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// The API server does it; this is called, and the answer is lost.
    After(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(code) => write!(f, "answered with {code}"),
            Self::TooMany(seconds) => write!(f, "answered with 429, again in {seconds} s"),
            Self::Cut => f.write_str("cut"),
            Self::LoseAnswer => f.write_str("done, and its answer lost"),
            Self::Delay(time) => write!(f, "held up for {time:?}"),
            Self::Hang => f.write_str("never answered"),
            Self::Silence => f.write_str("silent after its beginning"),
            Self::CutAfter(time) => write!(f, "cut after {time:?}"),
            Self::Expire => f.write_str("answered with 410"),
            Self::Replay => f.write_str("answered as the first time"),
            Self::Before(_) => f.write_str("lost, as the client ends before it"),
            Self::After(_) => f.write_str("done, as the client ends after it"),
        }
    }
}

/// Something done to some requests; later rules go before earlier ones.
#[derive(Clone, Debug)]
#[must_use = "a rule does nothing until a proxy has it"]
pub struct Rule {
    verbs: Vec<&'static str>,
    resource: Option<&'static str>,
    namespace: Option<String>,
    /// The first of those that is meant, and how many are left alone between two that are.
    first: usize,
    every: usize,
    times: usize,
    fault: Fault,
    /// How many have come that this is about, and how many it was done to.
    seen: usize,
    done: usize,
}

impl Rule {
    /// Done to every request.
    pub fn all(fault: Fault) -> Self {
        Self {
            verbs: Vec::new(),
            resource: None,
            namespace: None,
            first: 1,
            every: 1,
            times: usize::MAX,
            fault,
            seen: 0,
            done: 0,
        }
    }

    /// Done to requests of these verbs only.
    pub fn verbs(mut self, verbs: &[&'static str]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Done to what changes something only.
    pub fn writes(self) -> Self {
        self.verbs(&["create", "update", "patch", "delete"])
    }

    /// Done to requests for this resource only, its subresources included.
    pub fn of(mut self, resource: &'static str) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Done to requests in this namespace only.
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Done once, to the `nth` of them; the first is 1.
    pub fn nth(mut self, nth: usize) -> Self {
        self.first = nth;
        self.times = 1;
        self
    }

    /// Done to one of so many, from the first on.
    pub fn one_of(mut self, every: usize) -> Self {
        self.every = every;
        self
    }

    /// What is to be done to this request, if it is one of them. Counts it.
    pub(super) fn applies(&mut self, request: &Request) -> Option<Fault> {
        let is_meant = (self.verbs.is_empty() || self.verbs.contains(&&*request.verb))
            && self
                .resource
                .is_none_or(|resource| resource == request.resource)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == request.namespace);
        if !is_meant {
            return None;
        }
        self.seen += 1;
        let due = self.seen >= self.first && (self.seen - self.first).is_multiple_of(self.every);
        (due && self.done < self.times).then(|| {
            self.done += 1;
            self.fault.clone()
        })
    }

    /// How many requests it was done to.
    pub(super) fn done(&self) -> usize {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, resource: &str, namespace: &str) -> Request {
        Request {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            sub_resource: String::new(),
            namespace: namespace.to_owned(),
            name: "a".to_owned(),
        }
    }

    #[test]
    fn a_rule_is_about_the_requests_that_it_names() {
        let cut = || Rule::all(Fault::Cut);
        let hits = |mut rule: Rule| {
            let requests = [
                request("get", "pods", "n"),
                request("patch", "deployments", "n"),
                request("create", "services", "m"),
                request("patch", "deployments", "m"),
                request("watch", "pods", "n"),
            ];
            let hit = |request: &Request| rule.applies(request).is_some();
            let hits: Vec<_> = requests.iter().map(hit).collect();
            hits.iter()
                .map(|hit| if *hit { 'x' } else { '.' })
                .collect::<String>()
        };
        for (what, rule, expected) in [
            ("all", cut(), "xxxxx"),
            ("writes", cut().writes(), ".xxx."),
            ("the second write", cut().writes().nth(2), "..x.."),
            ("every second", cut().one_of(2), "x.x.x"),
            ("of deployments", cut().of("deployments"), ".x.x."),
            ("within a namespace", cut().within("m"), "..xx."),
            ("watches", cut().verbs(&["watch"]), "....x"),
            ("none", cut().nth(9), "....."),
        ] {
            assert_eq!(hits(rule), expected, "{what}");
        }
    }
}
