//! What other servers may ask of a room that this server is in. Nothing here changes a room but what
//! goes through its writer.

mod answers;
mod membership;
mod servers;

pub use self::{
    answers::{StateAnswer, StateIds},
    membership::{JoinAnswer, MembershipTemplate, TemplateKind},
};
