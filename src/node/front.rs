//! Clients at the door of one core thread: accepts connections, and carries operations to shards and answers back, on this
//! thread or over a lane to another.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::core::Setup;
use super::host::{Answers, Event, Host};
use super::place::{Crossing, Home, Place};
use crate::api::Answer;
use crate::api::beanstalkd::front_door::FrontDoor;
use crate::api::beanstalkd::outbox::ShardRequest;
use crate::api::beanstalkd::server::{Mailbox, ShardLink, serve_connection};
use crate::io::{Listener, Runtime, Wire, Writer};
use crate::metrics::Metrics;
use crate::shard::effect::ConnectionId;
use crate::types::{Nanos, ShardId};

/// After an `accept` that failed (no file descriptors left, say) the next one waits this long.
const ACCEPT_RETRY: Nanos = Nanos::from_millis(50);

/// Where the answers for each connection go.
#[derive(Debug, Default)]
pub struct Mailboxes {
    by_connection: RefCell<BTreeMap<u64, Mailbox>>,
}

impl Mailboxes {
    /// For a connection of this thread. It may have gone.
    pub fn deliver(&self, shard: ShardId, connection: ConnectionId, ticket: u64, answer: Answer) {
        let mailbox = self.by_connection.borrow().get(&connection.0).cloned();
        if let Some(mailbox) = mailbox {
            mailbox.deliver(shard, ticket, answer);
        }
    }
}

/// The answers of one shard.
pub struct ShardAnswers<W: Wire> {
    pub shard: ShardId,
    pub mailboxes: Rc<Mailboxes>,
    pub place: Rc<Place<W>>,
}

impl<W: Wire> Answers for ShardAnswers<W> {
    fn answer(&self, connection: ConnectionId, ticket: u64, answer: Answer) {
        match self.place.lane_to_connection(connection) {
            None => self.mailboxes.deliver(self.shard, connection, ticket, answer),
            Some(lane) => lane.push(Crossing::Answer { shard: self.shard, connection, ticket, answer }),
        }
    }
}

/// The door of one core thread.
pub struct Front<R: Runtime> {
    rt: R,
    place: Rc<Place<R::Wire>>,
    /// The shards of this thread, in order.
    hosts: Vec<Rc<Host<R>>>,
    mailboxes: Rc<Mailboxes>,
    door: Arc<FrontDoor>,
    /// Of the whole node.
    connections_max: u64,
    metrics: Arc<Metrics>,
    accepted: Cell<u64>,
}

impl<R: Runtime> ShardLink for Front<R> {
    fn opened(&self, connection: u64, mailbox: Mailbox) {
        self.mailboxes.by_connection.borrow_mut().insert(connection, mailbox);
        self.metrics.node.connections.inc();
        self.metrics.node.connections_accepted.inc();
    }

    fn request(&self, connection: u64, request: ShardRequest) {
        let ShardRequest { shard, ticket, operation } = request;
        let connection = ConnectionId(connection);
        match self.place.find(shard) {
            Home::Here(nth) => self.hosts[nth].events.push(Event::Operation { connection, ticket, operation }),
            Home::There(lane) => lane.push(Crossing::Operation { shard, connection, ticket, operation }),
        }
    }

    fn closed(&self, connection: u64) {
        if self.mailboxes.by_connection.borrow_mut().remove(&connection).is_none() {
            return;
        }
        self.metrics.node.connections.dec();
        for host in &self.hosts {
            host.events.push(Event::Closed(ConnectionId(connection)));
        }
        for lane in self.place.lanes() {
            lane.push(Crossing::Closed(ConnectionId(connection)));
        }
    }
}

impl<R: Runtime> Front<R> {
    /// `hosts`: the shards of this thread, in order.
    #[must_use]
    pub fn new(
        rt: R,
        setup: &Setup,
        place: Rc<Place<R::Wire>>,
        hosts: Vec<Rc<Host<R>>>,
        mailboxes: Rc<Mailboxes>,
    ) -> Front<R> {
        Front {
            rt,
            place,
            hosts,
            mailboxes,
            door: Arc::clone(&setup.door),
            connections_max: u64::from(setup.config.tunables.connections_max),
            metrics: Arc::clone(&setup.metrics),
            accepted: Cell::new(0),
        }
    }

    /// Accepts clients until the listener is closed.
    pub async fn accept(self: Rc<Self>, listener: Rc<impl Listener>, closing: Rc<Cell<bool>>) {
        // What lasts is said once.
        let mut told = None;
        loop {
            match listener.accept().await {
                Ok((reader, writer)) => {
                    told = None;
                    if self.door.connections() >= self.connections_max {
                        self.metrics.node.connections_rejected.inc();
                        writer.shutdown();
                        continue;
                    }
                    self.accepted.update(|count| count + 1);
                    let ConnectionId(number) = self.place.name_connection(self.accepted.get());
                    let serving = serve_connection(
                        self.rt.clone(),
                        reader,
                        writer,
                        Rc::clone(&self),
                        number,
                        Arc::clone(&self.door),
                        self.place.core(),
                    );
                    self.rt.spawn(serving);
                }
                Err(_) if closing.get() => return,
                Err(error) => {
                    if told.replace(error.kind()) != Some(error.kind()) {
                        tracing::warn!("clients cannot be accepted, it is tried again and again: {error}");
                    }
                    self.rt.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Closes every connection, once what it asked for is answered.
    pub fn finish(&self) {
        let mailboxes: Vec<Mailbox> = self.mailboxes.by_connection.borrow().values().cloned().collect();
        for mailbox in mailboxes {
            mailbox.finish();
        }
    }

    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.mailboxes.by_connection.borrow().len()
    }
}
