//! The kind, its defaults and its rules. Pure: no client, no clock, no I/O.

pub mod config_json;
pub mod decode;
pub mod defaults;
pub mod field_error;
pub mod field_path;
pub mod go_duration;
pub mod image_reference;
pub mod labels;
pub mod merge_keys;
pub mod names;
pub mod nulls;
pub mod platform;
pub mod pod_template;
pub mod quantity;
pub mod read;
pub mod schema;
pub mod session;
pub mod v1alpha1;

pub use field_error::FieldError;
pub use field_path::FieldPath;
pub use platform::Platform;
pub use v1alpha1::{MCPServer, MCPServerSpec, MCPServerStatus, Transport};
