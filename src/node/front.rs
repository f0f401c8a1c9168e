//! Clients at the door: accepts connections, and carries operations to shards and answers back. All on one core thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::host::{Answers, Event, Host};
use crate::api::Answer;
use crate::api::beanstalkd::front_door::FrontDoor;
use crate::api::beanstalkd::outbox::ShardRequest;
use crate::api::beanstalkd::server::{Mailbox, ShardLink, serve_connection};
use crate::io::{Listener, Runtime, Writer};
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

/// The answers of one shard.
#[derive(Debug)]
pub struct ShardAnswers {
    pub shard: ShardId,
    pub mailboxes: Rc<Mailboxes>,
}

impl Answers for ShardAnswers {
    fn answer(&self, connection: ConnectionId, ticket: u64, answer: Answer) {
        let mailbox = self.mailboxes.by_connection.borrow().get(&connection.0).cloned();
        if let Some(mailbox) = mailbox {
            mailbox.deliver(self.shard, ticket, answer);
        }
    }
}

/// The door of one core thread.
pub struct Front<R: Runtime> {
    rt: R,
    hosts: Vec<Rc<Host<R>>>,
    mailboxes: Rc<Mailboxes>,
    door: Arc<FrontDoor>,
    core: usize,
    connections_max: usize,
    metrics: Arc<Metrics>,
    next_connection: Cell<u64>,
}

impl<R: Runtime> ShardLink for Front<R> {
    fn opened(&self, connection: u64, mailbox: Mailbox) {
        self.mailboxes.by_connection.borrow_mut().insert(connection, mailbox);
        self.metrics.node.connections.inc();
        self.metrics.node.connections_accepted.inc();
    }

    fn request(&self, connection: u64, request: ShardRequest) {
        let ShardRequest { shard, ticket, operation } = request;
        let event = Event::Operation { connection: ConnectionId(connection), ticket, operation };
        self.hosts[usize::from(shard.0)].events.push(event);
    }

    fn closed(&self, connection: u64) {
        if self.mailboxes.by_connection.borrow_mut().remove(&connection).is_none() {
            return;
        }
        self.metrics.node.connections.dec();
        for host in &self.hosts {
            host.events.push(Event::Closed(ConnectionId(connection)));
        }
    }
}

impl<R: Runtime> Front<R> {
    /// `hosts`: all shards, by number.
    #[must_use]
    pub fn new(
        rt: R,
        hosts: Vec<Rc<Host<R>>>,
        mailboxes: Rc<Mailboxes>,
        door: Arc<FrontDoor>,
        connections_max: usize,
        metrics: Arc<Metrics>,
    ) -> Front<R> {
        Front { rt, hosts, mailboxes, door, core: 0, connections_max, metrics, next_connection: Cell::new(1) }
    }

    /// Accepts clients until the listener is closed.
    pub async fn accept(self: Rc<Self>, listener: Rc<impl Listener>, closing: Rc<Cell<bool>>) {
        loop {
            match listener.accept().await {
                Ok((reader, writer)) => {
                    if self.mailboxes.by_connection.borrow().len() >= self.connections_max {
                        self.metrics.node.connections_rejected.inc();
                        writer.shutdown();
                        continue;
                    }
                    let number = self.next_connection.get();
                    self.next_connection.set(number + 1);
                    let serving = serve_connection(
                        self.rt.clone(),
                        reader,
                        writer,
                        Rc::clone(&self),
                        number,
                        Arc::clone(&self.door),
                        self.core,
                    );
                    self.rt.spawn(serving);
                }
                Err(_) if closing.get() => return,
                Err(error) => {
                    tracing::warn!("a client could not be accepted: {error}");
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
