//! Where one core thread listens. Every thread listens for clients on TCP, and the kernel spreads connections over them; a
//! Unix socket is one thread's, and so is the port for peers.

use std::cell::Cell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;

use super::place::Place;
use crate::config::{Address, Config};
use crate::fatal::Fatal;
use crate::io::{Listener, Runtime, Wire, WireOptions};

/// Whether every core thread may listen there: TCP, with a port that is known beforehand. Where the system chooses the port,
/// it would choose one for each thread.
#[must_use]
pub fn is_shared(address: &Address) -> bool {
    address.port().is_some_and(|port| port != 0)
}

/// Says where this node listens, as names were resolved. Warns of a node that its peers on other hosts cannot reach.
pub fn tell_where<R: Runtime>(rt: &R, config: &Config, listeners: &Listeners<R>) {
    let clients: Vec<String> = listeners.clients.iter().map(|listener| listener.local_address()).collect();
    let Some(peers) = &listeners.peers else {
        return tracing::info!("listening for clients at {}", clients.join(" and "));
    };
    let peers = peers.local_address();
    tracing::info!("listening for clients at {}, for peers at {peers}", clients.join(" and "));
    let Ok(own) = peers.parse::<SocketAddr>() else { return };
    if !own.ip().is_loopback() {
        return;
    }
    let (beside, config) = (rt.clone(), config.clone());
    rt.spawn(async move {
        // Name servers may take seconds to answer.
        let warning = beside.beside(move || unreachable_at(&config, own, resolve)).await;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
    });
}

fn resolve(address: &str) -> Vec<SocketAddr> {
    // A name that is not known now is told of when it is dialled.
    address.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// What is wrong with peers being listened for at this loopback address, where other members are on other hosts.
fn unreachable_at(config: &Config, own: SocketAddr, resolve: impl Fn(&str) -> Vec<SocketAddr>) -> Option<String> {
    let is_elsewhere = |address: &Address| {
        let found = resolve(address.as_str());
        !found.is_empty() && found.iter().all(|address| !address.ip().is_loopback())
    };
    let others = config.members.iter().filter(|(node, _)| **node != config.node);
    let (other, address) = others.into_iter().find(|(_, address)| is_elsewhere(address))?;
    let configured = config.peers.as_ref()?;
    Some(format!(
        "no other host can reach this node: it listens for peers at {own} only, which is what `{configured}` stands for on \
         this host (a line for 127.0.1.1 in /etc/hosts?), and node {other} is elsewhere, at {address}; set `peers` to an \
         address that the others can reach, or to 0.0.0.0"
    ))
}

pub struct Listeners<R: Runtime> {
    pub clients: Vec<Rc<<R::Wire as Wire>::Listener>>,
    pub peers: Option<Rc<<R::Wire as Wire>::Listener>>,
    /// An `accept` that fails from now on was ended by us.
    pub closing: Rc<Cell<bool>>,
}

impl<R: Runtime> Listeners<R> {
    /// # Errors
    /// An address is taken, or not one of this host.
    pub fn bind(rt: &R, config: &Config, place: &Place<R::Wire>) -> Result<Listeners<R>, Fatal> {
        let listen = |address: &str, purpose, options| {
            rt.wire().listen(address, options).map(Rc::new).map_err(|error| Fatal::PortTaken {
                address: address.to_owned(),
                purpose,
                why: error.to_string(),
            })
        };
        let clients = config.clients.iter().filter(|address| place.is_first() || is_shared(address));
        let clients = clients.map(|address| listen(address.as_str(), "clients", WireOptions::Client));
        let peers = config.peers.as_ref().filter(|_| place.is_first() && config.members.len() > 1);
        Ok(Listeners {
            clients: clients.collect::<Result<_, _>>()?,
            peers: peers.map(|address| listen(address.as_str(), "peers", WireOptions::Peer)).transpose()?,
            closing: Rc::new(Cell::new(false)),
        })
    }

    /// No further client is accepted.
    pub fn close_clients(&self) {
        self.closing.set(true);
        for listener in &self.clients {
            listener.close();
        }
    }

    pub fn close(&self) {
        self.close_clients();
        if let Some(peers) = &self.peers {
            peers.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Draft;

    /// As Debian's installer leaves /etc/hosts on the host `a`.
    fn on_host_a(address: &str) -> Vec<SocketAddr> {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let ip = match host {
            "a" => "127.0.1.1",
            "b" => "192.0.2.2",
            "localhost" => "127.0.0.1",
            _ => return Vec::new(),
        };
        vec![format!("{ip}:{port}").parse().expect("an address")]
    }

    fn warning(members: &str) -> Option<String> {
        let text = format!("{{cluster: c, node: 1, data: d, clients: 'a:1', members: {members}}}");
        let config = Draft::from_yaml(&text, Path::new("c")).expect("parses").validate().expect("valid");
        unreachable_at(&config, "127.0.1.1:7301".parse().expect("an address"), on_host_a)
    }

    #[test]
    fn a_node_whose_own_name_is_a_loopback_address_is_warned_where_others_are_elsewhere() {
        let told = warning("{1: 'a:7301', 2: 'b:7301'}").expect("node 2 cannot reach it");
        assert!(told.contains("at 127.0.1.1:7301 only, which is what `a:7301` stands for"), "{told}");
        assert!(told.contains("node 2 is elsewhere, at b:7301"), "{told}");
        // All on one host; or nothing is known of the others.
        assert_eq!(warning("{1: 'a:7301', 2: 'localhost:7302'}"), None);
        assert_eq!(warning("{1: 'a:7301', 2: 'unknown:7301'}"), None);
    }
}
