//! Metrics, health and status over HTTP, on a thread of its own: at the admin port where there is one, and always on a
//! Unix socket in the data directory, which no client on the network can keep busy. It only reads what core threads publish;
//! nothing it does can hold one up.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use serde::Serialize;
use tokio::sync::oneshot;

use super::admin_door::{Bounded, Shares, source_of};
use super::draining::Draining;
use crate::config::Address;
use crate::fatal::Fatal;
use crate::io::{process, unix_socket};
use crate::metrics::{Format, Metrics, gauge_value};
use crate::status::{Board, StatusReport};
use crate::wal::directory::ADMIN_SOCKET;

const PORT_SHARES: Shares = Shares { all: 32, each: 16 };

/// All who may open the socket are one user.
const SOCKET_SHARES: Shares = Shares { all: 8, each: 8 };

/// At a time. Descriptors are kept for so many.
pub const CONNECTIONS_MAX: usize = PORT_SHARES.all + SOCKET_SHARES.all;

/// A connection on which nothing was answered for so long is closed, whether it was silent or sent half a request: scrapers dial again.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Of the socket in the data directory: only the node's own user may connect.
const SOCKET_MODE: u32 = 0o600;

const SOCKET_BACKLOG: i32 = 128;

/// How long it may take to end. What it reads is never waited for, so it has nothing to finish.
const END_PATIENCE: Duration = Duration::from_secs(1);

const INDEX: &str = "\
beaver-raft admin port

/metrics  for Prometheus
/healthz  200 while every shard runs
/readyz   200 while every shard knows its leader and is up to date here, and the node does not drain
/status   everything, as JSON
";

#[derive(Clone)]
struct Shown {
    board: Arc<Board>,
    draining: Draining,
}

impl Shown {
    fn metrics(&self) -> &Metrics {
        let metrics = &self.draining.metrics;
        metrics.node.memory_bytes.set(gauge_value(process::resident_bytes()));
        metrics
    }

    fn report(&self) -> StatusReport {
        self.board.report(self.metrics())
    }
}

/// What a node answers that was told to drain, or to drain no longer.
#[derive(Debug, Serialize)]
struct Switched {
    node: u8,
    cluster: String,
    draining: bool,
    /// Whether it did otherwise before.
    changed: bool,
}

/// The socket of the node that runs in this data directory.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join(ADMIN_SOCKET)
}

/// What is served; it ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Admin {
    /// Binds the address, if there is one, and the socket in the directory `data`, and starts serving. The caller holds the
    /// directory's lock: a socket that is there was left by a process that was killed. A directory that takes no socket is
    /// reported and does not keep the node from running.
    ///
    /// # Errors
    /// [`Fatal::PortTaken`] if the address cannot be bound, [`Fatal::System`] if no thread can be had.
    pub fn start(
        address: Option<&Address>,
        data: &Path,
        board: Arc<Board>,
        draining: Draining,
    ) -> Result<Admin, Fatal> {
        Admin::start_patient(address, data, Shown { board, draining }, SILENCE_MAX)
    }

    fn start_patient(
        address: Option<&Address>,
        data: &Path,
        shown: Shown,
        silence_max: Duration,
    ) -> Result<Admin, Fatal> {
        let refused = |why: std::io::Error| Fatal::System {
            what: "a thread for the admin port".to_owned(),
            why: why.to_string(),
        };
        let port = address.map(listen_at).transpose()?;
        let path = socket_path(data);
        let socket = listen_in(&path)
            .inspect_err(|why| tracing::warn!("status and health cannot be served at {}: {why}", path.display()))
            .ok();
        let address = port.as_ref().map(|(_, address)| address.clone());
        let served = Served { port: port.map(|(port, _)| port), socket };
        let socket = served.socket.is_some().then_some(path);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                runtime.block_on(served.serve(shown, silence_max, stopped));
                // Here, for whose end nobody waits long: the disk may hang. Not found: somebody
                // tidied up already.
                let _ = socket.map(std::fs::remove_file);
            })
            .map_err(refused)?;
        Ok(Admin { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens on TCP, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Option<&str> {
        self.address.as_deref()
    }
}

fn listen_at(address: &Address) -> Result<(TcpListener, String), Fatal> {
    let listen = || -> io::Result<(TcpListener, String)> {
        let sockets: Vec<_> = address.as_str().to_socket_addrs()?.collect();
        let listener = TcpListener::bind(sockets.as_slice())?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?.to_string();
        Ok((listener, bound))
    };
    listen().map_err(|why| Fatal::PortTaken {
        address: address.to_string(),
        purpose: "the admin port",
        why: why.to_string(),
    })
}

fn listen_in(path: &Path) -> io::Result<UnixListener> {
    if unix_socket::is_there(path)? {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::from(OwnedFd::from(unix_socket::listen(path, Some(SOCKET_MODE), SOCKET_BACKLOG)?));
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return };
        let deadline = std::time::Instant::now() + END_PATIENCE;
        while !thread.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("the admin thread has not ended after {} ms, and is left behind", END_PATIENCE.as_millis());
        }
    }
}

/// The listeners of both.
struct Served {
    port: Option<TcpListener>,
    socket: Option<UnixListener>,
}

impl Served {
    async fn serve(self, shown: Shown, silence_max: Duration, stopped: oneshot::Receiver<()>) {
        let router = Router::new()
            .route("/", get(|| async { INDEX }))
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/status", get(status));
        let changing = Router::new().route("/drain", post(drain)).route("/undrain", post(undrain));
        let changing = router.clone().merge(changing).with_state(shown.clone());
        let router = router.with_state(shown);
        let port = self.port.map(tokio::net::TcpListener::from_std).transpose();
        let socket = self.socket.map(tokio::net::UnixListener::from_std).transpose();
        let (port, socket) = match (port, socket) {
            (Ok(port), Ok(socket)) => (port, socket),
            (Err(why), _) | (_, Err(why)) => return tracing::error!("the admin port cannot be served: {why}"),
        };
        let port = port.map(|port| Bounded::new(port, |&address| source_of(address), PORT_SHARES, silence_max));
        let socket = socket.map(|socket| Bounded::new(socket, |_| None, SOCKET_SHARES, silence_max));
        // Ending drops open connections too: an idle scraper must not hold up the stop of a node.
        tokio::select! {
            () = answer(port, router) => {}
            () = answer(socket, changing) => {}
            _ = stopped => {}
        }
    }
}

/// Serves for ever, also where there is nothing to serve.
async fn answer<L: Listener>(listener: Option<Bounded<L>>, router: Router)
where
    L::Addr: std::fmt::Debug,
{
    let Some(listener) = listener else { return std::future::pending().await };
    if let Err(why) = axum::serve(listener, router).await {
        tracing::error!("the admin port ended: {why}");
    }
}

async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    ([(header::CONTENT_TYPE, format.content_type())], shown.metrics().text(format)).into_response()
}

async fn healthz(State(shown): State<Shown>) -> Response {
    verdict(shown.report().alive(), &[])
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let report = shown.report();
    verdict(report.ready(), &report.remarks())
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(shown.report()).into_response()
}

async fn drain(State(shown): State<Shown>) -> Response {
    switch(&shown, true)
}

async fn undrain(State(shown): State<Shown>) -> Response {
    switch(&shown, false)
}

fn switch(shown: &Shown, draining: bool) -> Response {
    let Some(changed) = shown.draining.set(draining) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node has not begun to serve yet; try again\n").into_response();
    };
    let StatusReport { node, cluster, .. } = shown.report();
    Json(Switched { node, cluster, draining, changed }).into_response()
}

/// `remarks`: what an operator should know all the same.
fn verdict(verdict: Result<(), Vec<String>>, remarks: &[String]) -> Response {
    let lines = |first: &[String]| first.iter().chain(remarks).map(|line| format!("{line}\n")).collect::<String>();
    match verdict {
        Ok(()) => lines(&["ok".to_owned()]).into_response(),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, lines(&reasons)).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream as StdStream;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::admin_client::AdminClient;
    use crate::config::Draft;
    use crate::status::{RoleName, ShardStatus};

    const CONFIG: &str = "{cluster: c, node: 1, data: d, clients: 'a:1', members: {1: 'a:2', 2: 'b:2'}, admin: 'a:3'}";
    const PATIENCE: Duration = Duration::from_secs(60);

    fn at(admin: &Admin) -> &str {
        admin.local_address().expect("it listens on TCP")
    }

    fn get(address: &str, path: &str) -> (u16, String) {
        asked(&AdminClient::at(address, PATIENCE), path)
    }

    fn asked(client: &AdminClient, path: &str) -> (u16, String) {
        let answer = client.get(path).expect("answers");
        (answer.code, answer.text)
    }

    fn ok() -> (u16, String) {
        (200, "ok\n".to_owned())
    }

    struct Node {
        data: tempfile::TempDir,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
        any: Address,
    }

    impl Node {
        fn start(&self, address: Option<&Address>) -> Result<Admin, Fatal> {
            Admin::start(address, self.data.path(), Arc::clone(&self.board), self.draining())
        }

        fn draining(&self) -> Draining {
            Draining { door: Arc::default(), metrics: Arc::clone(&self.metrics) }
        }

        fn start_patient(&self, silence_max: Duration) -> Admin {
            let shown = Shown { board: Arc::clone(&self.board), draining: self.draining() };
            Admin::start_patient(Some(&self.any), self.data.path(), shown, silence_max).expect("starts")
        }

        fn socket(&self) -> PathBuf {
            socket_path(self.data.path())
        }
    }

    fn node() -> Node {
        let config = Draft::from_yaml(CONFIG, Path::new("c")).expect("parses").validate().expect("valid");
        let metrics = Arc::new(Metrics::new());
        let board = Arc::new(Board::new(&config, &metrics));
        let any = Address::parse("127.0.0.1:0").expect("an address");
        Node { data: tempfile::tempdir().expect("a directory"), metrics, board, any }
    }

    #[test]
    fn the_admin_port_shows_what_was_published() {
        let node = node();
        let admin = node.start(Some(&node.any)).expect("starts");

        assert_eq!(get(at(&admin), "/healthz"), ok());
        assert_eq!(get(at(&admin), "/readyz"), (503, "shard 0: recovering\n".to_owned()));
        node.board.publish(ShardStatus {
            role: RoleName::Leader,
            leader: Some(1),
            term: 9,
            caught_up: true,
            ..ShardStatus::default()
        });
        assert_eq!(get(at(&admin), "/readyz"), ok());
        node.board.note_free(1000);
        let (code, text) = get(at(&admin), "/readyz");
        assert!(code == 200 && text.starts_with("ok\nthe disk is full: 1000 bytes are free, "), "{text}");
        let (code, text) = get(at(&admin), "/metrics");
        assert_eq!(code, 200);
        assert!(text.contains("beaver_raft_term{shard=\"0\"} 9"), "{text}");
        let (code, json) = get(at(&admin), "/status");
        let report: StatusReport = serde_json::from_str(&json).expect("a status");
        assert_eq!((code, report.shards[0].term), (200, 9));
        assert_eq!(report.members[1].admin.as_deref(), Some("b:3"), "as far from the peer port as here");

        let taken = Address::parse(at(&admin)).expect("an address");
        let told = node.start(Some(&taken)).expect_err("is taken").to_string();
        assert!(told.contains("for the admin port"), "{told}");
        drop(admin);
    }

    #[test]
    fn every_node_is_asked_through_its_data_directory() {
        let node = node();
        // As a node leaves it that was killed.
        drop(UnixListener::bind(node.socket()).expect("a socket"));
        let admin = node.start(None).expect("starts");
        assert_eq!(admin.local_address(), None);
        assert_eq!(std::fs::metadata(node.socket()).expect("there").permissions().mode() & 0o777, 0o600);

        let client = AdminClient::in_directory(node.data.path(), PATIENCE);
        assert_eq!(asked(&client, "/healthz"), ok());
        let (code, json) = asked(&client, "/status");
        let report: StatusReport = serde_json::from_str(&json).expect("a status");
        assert_eq!((code, report.node), (200, 1));
        drop(admin);
        assert!(!node.socket().exists());
    }

    #[test]
    fn a_node_that_has_not_begun_is_not_drained() {
        let node = node();
        let admin = node.start(Some(&node.any)).expect("starts");
        let post = |client: AdminClient| client.post("/drain").expect("answers").code;
        assert_eq!(post(AdminClient::in_directory(node.data.path(), PATIENCE)), 503);
        assert_eq!(post(AdminClient::at(at(&admin), PATIENCE)), 404, "the port changes nothing");
    }

    #[test]
    fn a_directory_that_takes_no_socket_keeps_no_node_from_running() {
        let node = node();
        std::fs::write(node.socket(), "not ours").expect("written");
        let admin = node.start(Some(&node.any)).expect("starts");
        assert_eq!(get(at(&admin), "/healthz"), ok());
        drop(admin);
        assert!(node.socket().exists(), "what is no socket stays");
    }

    /// Some say nothing, some send a request byte by byte and never come to its end; whoever is closed dials again.
    struct Crowd {
        address: String,
        members: Vec<StdStream>,
    }

    impl Crowd {
        fn of(count: usize, address: &str) -> Crowd {
            let members = (0..count).map(|_| StdStream::connect(address).expect("is listening")).collect();
            Crowd { address: address.to_owned(), members }
        }

        fn nag(&mut self) {
            for member in &mut self.members {
                if member.write_all(b"G").is_err() {
                    *member = StdStream::connect(&self.address).expect("is listening");
                }
            }
        }
    }

    /// The silence that is allowed here outlives the test: only shares can let anybody in.
    #[test]
    fn a_crowd_of_slow_clients_that_dial_again_keeps_nobody_out() {
        let node = node();
        let admin = node.start_patient(2 * PATIENCE);
        let mut crowd = Crowd::of(2 * CONNECTIONS_MAX, at(&admin));
        let (address, data) = (at(&admin), node.data.path());
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(get(address, "/healthz"), ok(), "of the same address");
                    assert_eq!(asked(&AdminClient::in_directory(data, PATIENCE), "/healthz"), ok());
                }
            });
            while !asking.is_finished() {
                crowd.nag();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }

    #[test]
    fn a_request_that_does_not_come_to_its_end_is_given_up() {
        let node = node();
        let admin = node.start_patient(Duration::from_millis(100));
        let mut slow = StdStream::connect(at(&admin)).expect("is listening");
        // It ends when the server closes the connection.
        while slow.write_all(b"G").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(get(at(&admin), "/healthz"), ok());
    }
}
