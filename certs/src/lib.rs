//! Serving certificates for admission webhooks: a CA shared by replicas through a Secret, a short-lived
//! leaf per replica in memory, and the `caBundle` of the webhook configurations kept right.
//!
//! What to do is decided by a pure function of what is stored and the time ([`decide::decide`]); doing
//! it is one compare-and-swap write ([`keeper::Keeper`]). A crash between any two writes leaves a state
//! that the function handles.

pub mod authority;
pub mod decide;
pub mod keeper;
pub mod registration;
pub mod secret;
pub mod serving;

pub use keeper::{Keeper, Settings};
pub use serving::Serving;
