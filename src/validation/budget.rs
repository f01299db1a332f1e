//! How large a spec may be, whoever looks at it: the webhooks, the controller and `validate`.

use webhook::Budget;

use crate::api::FieldError;

/// More than any server needs, and what a review takes in memory stays small.
pub const SPEC: Budget = Budget {
    field: "spec",
    values: 20_000,
    depth: 64,
};

/// What is too much in a spec, given as JSON. Takes no memory.
pub fn of_spec(json: &str) -> Option<FieldError> {
    let beyond = SPEC.exceeded_by(json)?;
    Some(FieldError {
        field: SPEC.field.to_owned(),
        reason: beyond.reason,
        message: beyond.message,
        is_in_schema: false,
    })
}
