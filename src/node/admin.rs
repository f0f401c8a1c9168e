//! The admin port: metrics, health and status over HTTP, on a thread of its own. It only reads what core threads
//! publish; nothing it does can hold one up.

use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::config::Address;
use crate::fatal::Fatal;
use crate::metrics::Metrics;
use crate::status::Board;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
            .spawn(move || runtime.block_on(serve(listener, Shown { metrics, board }, stopped)))
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

async fn serve(listener: TcpListener, shown: Shown, stopped: oneshot::Receiver<()>) {
    let router = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(shown);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
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

    #[test]
    fn the_admin_port_shows_what_was_published() {
        let config = Draft::from_yaml(CONFIG, Path::new("c")).expect("parses").validate().expect("valid");
        let metrics = Arc::new(Metrics::new());
        let board = Arc::new(Board::new(&config, &metrics));
        let any = Address::parse("127.0.0.1:0").expect("an address");
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
}
