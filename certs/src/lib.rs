//! Serving certificates for admission webhooks, in two ways.
//!
//! [`Keeper`] signs its own: a CA shared by replicas through a Secret, a short-lived leaf per replica in
//! memory, and the `caBundle` of the webhook configurations kept right. What to do about the Secret and about
//! the leaf is decided by pure functions of what is stored and the time ([`decide::decide`],
//! [`leaf::next`]); each write is a compare-and-swap. A crash between any two writes leaves a state that
//! the functions handle.
//!
//! [`Files`] serves what a folder holds, and writes nothing to the API.

pub mod authority;
pub mod decide;
pub mod files;
pub mod folder;
pub mod keeper;
pub mod leaf;
pub mod registration;
pub mod secret;
pub mod serving;

pub use files::Files;
pub use keeper::{Keeper, Settings};
pub use serving::Serving;

/// The time, for tests to set.
pub type Clock = std::sync::Arc<dyn Fn() -> std::time::SystemTime + Send + Sync>;
