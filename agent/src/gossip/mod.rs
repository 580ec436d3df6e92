//! Who is alive: SWIM by foca, over sealed UDP datagrams.
//!
//! [`engine`] is the protocol without a clock or a socket, [`frame`] seals what leaves the machine,
//! [`udp`] moves it. Knows nothing of PostgreSQL, records or roles; and as any holder of a key can
//! forge liveness, nothing destructive may follow from what this module says.

pub mod engine;
pub mod frame;
pub mod hints;
pub mod member;
pub mod tally;
pub mod timers;
pub mod tuning;
pub mod udp;
pub mod window;
