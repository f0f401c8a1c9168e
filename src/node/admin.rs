//! The admin port: metrics, health and status over HTTP, on a thread of its own. It only reads what core threads
//! publish; nothing it does can hold one up.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep};

use crate::config::Address;
use crate::fatal::Fatal;
use crate::metrics::Metrics;
use crate::status::Board;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// At a time; more wait to be accepted. Descriptors are kept for so many.
pub const CONNECTIONS_MAX: usize = 32;

/// A connection on which nothing was answered for so long is closed: scrapers dial again, and those that say nothing keep nobody out.
const SILENCE_MAX: Duration = Duration::from_secs(10);

const INDEX: &str = "\
beaver-raft admin port

/metrics  for Prometheus
/healthz  200 while every shard runs
/readyz   200 while every shard knows its leader and is up to date here
/status   everything, as JSON
";

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    board: Arc<Board>,
}

/// The running admin port; it ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Admin {
    /// Binds the address and starts serving.
    ///
    /// # Errors
    /// [`Fatal::PortTaken`] if it cannot be bound, [`Fatal::System`] if no thread can be had.
    pub fn start(address: &Address, metrics: Arc<Metrics>, board: Arc<Board>) -> Result<Admin, Fatal> {
        Admin::start_patient(address, metrics, board, SILENCE_MAX)
    }

    fn start_patient(
        address: &Address,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
        silence_max: Duration,
    ) -> Result<Admin, Fatal> {
        let taken = |why: std::io::Error| Fatal::PortTaken {
            address: address.to_string(),
            purpose: "the admin port",
            why: why.to_string(),
        };
        let refused = |why: std::io::Error| Fatal::System {
            what: "a thread for the admin port".to_owned(),
            why: why.to_string(),
        };
        let sockets: Vec<_> = address.as_str().to_socket_addrs().map_err(taken)?.collect();
        let listener = TcpListener::bind(sockets.as_slice()).map_err(taken)?;
        listener.set_nonblocking(true).map_err(taken)?;
        let bound = listener.local_addr().map_err(taken)?.to_string();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, Shown { metrics, board }, silence_max, stopped)))
            .map_err(refused)?;
        Ok(Admin { address: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts no more connections than there is room for, each for no longer than it is used.
struct Bounded {
    listener: tokio::net::TcpListener,
    places: Arc<Semaphore>,
    silence_max: Duration,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.expect("it is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let silence_max = self.silence_max;
        (
            Connection { stream, deadline: Box::pin(tokio::time::sleep(silence_max)), silence_max, _place: place },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Ends where it has waited too long since its last answer, whatever came in meanwhile.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    silence_max: Duration,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn until_deadline<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buf);
        self.until_deadline(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(_)) = polled {
            let next = Instant::now() + self.silence_max;
            self.deadline.as_mut().reset(next);
        }
        self.until_deadline(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn serve(listener: TcpListener, shown: Shown, silence_max: Duration, stopped: oneshot::Receiver<()>) {
    let router = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(shown);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Bounded { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), silence_max },
        Err(why) => return tracing::error!("the admin port cannot be served: {why}"),
    };
    // Ending drops open connections too: an idle scraper must not hold up the stop of a node.
    tokio::select! {
        ended = async { axum::serve(listener, router).await } => {
            if let Err(why) = ended {
                tracing::error!("the admin port ended: {why}");
            }
        }
        _ = stopped => {}
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], shown.metrics.text()).into_response()
}

async fn healthz(State(shown): State<Shown>) -> Response {
    verdict(shown.board.report(&shown.metrics).alive())
}

async fn readyz(State(shown): State<Shown>) -> Response {
    verdict(shown.board.report(&shown.metrics).ready())
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(shown.board.report(&shown.metrics)).into_response()
}

fn verdict(verdict: Result<(), Vec<String>>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream as StdStream;
    use std::path::Path;

    use super::*;
    use crate::config::Draft;
    use crate::status::{RoleName, ShardStatus, StatusReport};

    const CONFIG: &str = "{cluster: c, node: 1, data: d, clients: 'a:1', members: {1: 'a:2', 2: 'b:2'}, admin: 'a:3'}";

    fn get(address: &str, path: &str) -> (u16, String) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut response = agent.get(format!("http://{address}{path}")).call().expect("answers");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
    }

    fn shown() -> (Arc<Metrics>, Arc<Board>, Address) {
        let config = Draft::from_yaml(CONFIG, Path::new("c")).expect("parses").validate().expect("valid");
        let metrics = Arc::new(Metrics::new());
        let board = Arc::new(Board::new(&config, &metrics));
        (metrics, board, Address::parse("127.0.0.1:0").expect("an address"))
    }

    #[test]
    fn the_admin_port_shows_what_was_published() {
        let (metrics, board, any) = shown();
        let admin = Admin::start(&any, Arc::clone(&metrics), Arc::clone(&board)).expect("starts");

        assert_eq!(get(admin.local_address(), "/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(get(admin.local_address(), "/readyz"), (503, "shard 0: recovering\n".to_owned()));
        board.publish(ShardStatus {
            role: RoleName::Leader,
            leader: Some(1),
            term: 9,
            caught_up: true,
            ..ShardStatus::default()
        });
        assert_eq!(get(admin.local_address(), "/readyz"), (200, "ok\n".to_owned()));
        let (code, text) = get(admin.local_address(), "/metrics");
        assert_eq!(code, 200);
        assert!(text.contains("beaver_raft_term{shard=\"0\"} 9"), "{text}");
        let (code, json) = get(admin.local_address(), "/status");
        let report: StatusReport = serde_json::from_str(&json).expect("a status");
        assert_eq!((code, report.shards[0].term), (200, 9));
        assert_eq!(report.members[1].admin.as_deref(), Some("b:3"), "as far from the peer port as here");

        let taken = Address::parse(admin.local_address()).expect("an address");
        let told = Admin::start(&taken, metrics, board).expect_err("is taken").to_string();
        assert!(told.contains("for the admin port"), "{told}");
        drop(admin);
    }

    /// Some say nothing, some send a request byte by byte and never come to its end.
    #[test]
    fn those_who_say_nothing_keep_nobody_out_and_hold_no_more_than_their_places() {
        let (metrics, board, any) = shown();
        let silence_max = Duration::from_millis(500);
        let admin = Admin::start_patient(&any, metrics, board, silence_max).expect("starts");
        let address = admin.local_address();

        let idle: Vec<_> =
            (0..2 * CONNECTIONS_MAX).map(|_| StdStream::connect(address).expect("is listening")).collect();
        let begun = std::time::Instant::now();
        let asked = std::thread::scope(move |scope| {
            let asked = scope.spawn(|| get(address, "/healthz"));
            while !asked.is_finished() && begun.elapsed() < 20 * silence_max {
                for mut stream in &idle {
                    let _closed = stream.write_all(b"G");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(idle);
            asked.join().expect("ends")
        });
        assert_eq!(asked, (200, "ok\n".to_owned()));
        let waited = begun.elapsed();
        assert!(waited > silence_max, "the places were taken, but after {waited:?} it was answered");
        assert!(waited < 20 * silence_max, "{waited:?}");
    }
}
