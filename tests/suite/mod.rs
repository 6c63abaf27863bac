//! The tests of both APIs, by the groups of rules of `docs/BEHAVIOUR.md` that they check. They
//! know the library only through `crate::api`, the backend of the test binary.

mod accepted;
mod attach;
mod blocking;
mod by_id;
mod bytes;
mod closed_watches;
mod closing;
mod deadline_races;
mod deadlines;
mod detach;
mod errors;
mod exception;
mod fairness;
mod farewell;
pub mod hosted;
mod hygiene;
mod inherited;
mod ipv6;
mod lifecycle;
mod limits;
mod non_blocking;
mod readiness;
mod reasons;
mod reference;
mod sending;
mod services;
mod shutdown_port;
mod status;
mod stop;
mod stop_callbacks;
mod tasks;
mod threads;
mod unix;
mod unix_streams;
mod waiting;
