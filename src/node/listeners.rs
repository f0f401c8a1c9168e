//! Where one core thread listens. Every thread listens for clients on TCP, and the kernel spreads connections over them; a
//! Unix socket is one thread's, and so is the port for peers.

use std::cell::Cell;
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
