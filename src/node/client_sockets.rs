//! The sockets for clients, which listen before anything is recovered: a client that connects right after the start waits
//! in the backlog and is not refused. They are closed, and the client with them, where the start fails.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::listeners::is_shared;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::uring::BoundSocket;
use crate::io::{WireOptions, startup};

/// A process that was killed still holds its ports until the kernel has torn its rings down: 4 to 17 ms after it was
/// reaped. Its successor must not take that for somebody else.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

const PORT_PAUSE: Duration = Duration::from_millis(5);

/// The sockets of each core thread, by its number. `inherited`: those that a service manager passed, from which all clients come
/// where there are any.
///
/// # Errors
/// An address, that for peers too, is in use or not one of this host.
pub fn listen(config: &Config, inherited: Vec<BoundSocket>) -> Result<Vec<Vec<BoundSocket>>, Fatal> {
    await_ports(config, inherited.is_empty())?;
    let cores = usize::from(config.core_count());
    let mut sockets: Vec<Vec<BoundSocket>> = (0..cores).map(|_| Vec::new()).collect();
    for address in &config.clients {
        let taken = |why: std::io::Error| Fatal::PortTaken {
            address: address.to_string(),
            purpose: "clients",
            why: why.to_string(),
        };
        // As `Listeners::bind` asks for them.
        let listening = if is_shared(address) { cores } else { 1 };
        let passed = inherited.iter().find(|socket| socket.address() == address.as_str());
        for of_core in &mut sockets[..listening] {
            let socket = match passed {
                Some(socket) => socket.share(),
                None => BoundSocket::listen(address.as_str(), WireOptions::Client, cores > 1, config.clients_mode),
            };
            of_core.push(socket.map_err(taken)?);
        }
    }
    Ok(sockets)
}

/// Waits until nobody listens where this node is to listen.
///
/// It also tells what listeners can't: threads that share a port would share it with another process, and not notice.
fn await_ports(config: &Config, binds_clients: bool) -> Result<(), Fatal> {
    let begun = Instant::now();
    let clients = config.clients.iter().filter(|_| binds_clients).map(|address| (address, "clients"));
    let peers = config.peers.iter().filter(|_| config.members.len() > 1).map(|address| (address, "peers"));
    for (address, purpose) in clients.chain(peers).filter(|(address, _)| is_shared(address)) {
        while let Err(error) = startup::check_port(address.as_str()) {
            if error.kind() != ErrorKind::AddrInUse || begun.elapsed() >= PORT_PATIENCE {
                return Err(Fatal::PortTaken { address: address.to_string(), purpose, why: error.to_string() });
            }
            std::thread::sleep(PORT_PAUSE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;

    use super::*;
    use crate::config::Draft;

    fn config(clients: &str) -> Config {
        let yaml = format!("{{data: d, clients: '{clients}', shards: 4, cores: 2}}");
        Draft::from_yaml(&yaml, Path::new("test")).expect("parses").validate_embedded().expect("valid")
    }

    fn free_address() -> String {
        TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").to_string()
    }

    #[test]
    fn clients_are_taken_by_the_kernel_before_any_core_thread_runs() {
        let address = free_address();
        let sockets = listen(&config(&address), Vec::new()).expect("it is free");
        assert_eq!(sockets.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let mut client = TcpStream::connect(&address).expect("somebody listens");
        client.write_all(b"stats\r\n").expect("the kernel takes it");
        let told = listen(&config(&address), Vec::new()).expect_err("is taken").to_string();
        assert!(told.starts_with(&format!("cannot listen on {address} for clients")), "{told}");
        // As where the start fails.
        drop(sockets);
        TcpStream::connect(&address).expect_err("nobody listens");
    }

    #[test]
    fn a_socket_that_was_passed_serves_all_core_threads() {
        let passed = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = passed.local_addr().expect("bound").to_string();
        let inherited = BoundSocket::inherit(passed.into()).expect("it listens");
        let sockets = listen(&config(&address), vec![inherited]).expect("its port is in use by itself");
        assert_eq!(sockets.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        TcpStream::connect(&address).expect("somebody listens");
    }
}
