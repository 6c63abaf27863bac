//! What a worker does before `on_open` is no part of the model.

use super::Pool;
use crate::conn::Conn;
use crate::server::Server;

pub(super) fn prepare(_: &Pool, _: &Server, _: &mut Conn) -> bool {
    true
}
