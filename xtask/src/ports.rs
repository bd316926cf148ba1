//! Free ports that stay free (the tests include this file as well).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use socket2::{Domain, Socket, Type};

static RESERVED: Mutex<Vec<Socket>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody listens on, and that nobody else is given while this process lives.
///
/// Who is to listen on it often starts long after the choice, and between the two the kernel may give a port
/// that was merely free to any connection. This one stays bound. Linux never picks a port that is bound for a
/// connection or for a listener that asks for any; and lets a server that asks for this very one with
/// `SO_REUSEADDR`, as servers do, listen beside a socket that does not (`inet_csk_bind_conflict`).
///
/// # Errors
/// That of the system: no port or no file handle is left.
pub fn free_port() -> std::io::Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let port = socket.local_addr()?.as_socket_ipv4().expect("bound to an IPv4 address").port();
    RESERVED.lock().expect("nobody panics with it").push(socket);
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_for_whoever_asks_for_it_by_name_alone() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let without_reuse = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(without_reuse.bind(&address.into()).is_err(), "it is held");
        let server = std::net::TcpListener::bind(address).expect("a server listens on it");
        drop(server);
        std::net::TcpListener::bind(address).expect("and again when it was restarted");
    }
}
