//! Sockets and dispatch.
