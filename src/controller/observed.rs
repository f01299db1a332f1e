//! What a pass has seen of a server's children, as values.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::view::child::{ChildKind, ChildView};
use super::view::pod::PodView;

/// A child after the pass has dealt with it.
#[derive(Clone, Debug)]
pub enum Child<K: ChildKind> {
    /// The server needs none.
    NotWanted,
    /// It is not there, and was not made for another child's sake.
    Absent,
    /// It is there, as we want it.
    Present(Arc<ChildView<K>>),
    /// An object of this name is somebody else's; the text names it.
    Conflict(String),
    /// It is on its way out, and is made again when it has gone. The text says so.
    Leaving(String),
    /// It could not be brought up to date, as the text says; with what there is of it.
    Refused(String, Option<Arc<ChildView<K>>>),
}

impl<K: ChildKind> Child<K> {
    /// The object, when it is there.
    pub fn view(&self) -> Option<&ChildView<K>> {
        match self {
            Self::Present(view) | Self::Refused(_, Some(view)) => Some(view),
            _ => None,
        }
    }

    /// The text of a name conflict.
    pub fn conflict(&self) -> Option<&str> {
        match self {
            Self::Conflict(text) => Some(text),
            _ => None,
        }
    }
}

/// What a pass has seen of a server's children.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The config.
    pub config_map: Child<ConfigMap>,
    /// The pods' Deployment.
    pub deployment: Child<Deployment>,
    /// The Service.
    pub service: Child<Service>,
    /// How many pods may be evicted.
    pub disruption_budget: Child<PodDisruptionBudget>,
    /// The pods that there are.
    pub pods: Vec<Arc<PodView>>,
}

impl Observed {
    /// Why the pods are not those that the spec asks for, if something could not be brought up to date.
    pub fn behind(&self) -> Option<&str> {
        match (&self.deployment, &self.config_map) {
            (Child::Refused(why, _), _) | (_, Child::Refused(why, _) | Child::Leaving(why)) => {
                Some(why)
            }
            _ => None,
        }
    }

    /// Whether a child is on its way out.
    pub fn is_leaving(&self) -> bool {
        matches!(self.config_map, Child::Leaving(_))
            || matches!(self.deployment, Child::Leaving(_))
            || matches!(self.service, Child::Leaving(_))
            || matches!(self.disruption_budget, Child::Leaving(_))
    }

    /// The kinds of the children that are there.
    pub fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("ConfigMap", self.config_map.view().is_some()),
            ("Deployment", self.deployment.view().is_some()),
            ("Service", self.service.view().is_some()),
            (
                "PodDisruptionBudget",
                self.disruption_budget.view().is_some(),
            ),
        ];
        let there = all.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(kind, _)| kind).collect()
    }
}
