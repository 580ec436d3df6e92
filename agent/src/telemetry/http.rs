//! Health and metrics over HTTP: `/healthz`, `/readyz`, `/status`, `/metrics`.
//!
//! Reads the published report and nothing else; whoever asks can change nothing.

use super::metrics;
use crate::clock::Clocks;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use pgaa_core::time::Mono;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The loop turns at least once a second; after this silence it hangs.
const LOOP_AGE_MAX: Duration = Duration::from_secs(10);

/// Connections served at once; a scraper needs one.
const CONNECTIONS_MAX: usize = 32;

/// How long one connection may last: answers come from memory.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// Serves until the sender of the reports is gone. The reports' arrival is the loop's pulse.
pub async fn run(
    listener: TcpListener,
    mut status: watch::Receiver<Arc<StatusReport>>,
    clocks: Clocks,
) -> anyhow::Result<()> {
    let mut turned_at = clocks.mono();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                turned_at = clocks.mono();
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let report = status.borrow().clone();
                    connections.spawn(serve(stream, View { report, turned_at, clocks }));
                }
                Err(error) => {
                    // Out of file descriptors, most likely; a pause lets some be closed.
                    debug!("a health connection can't be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What one connection gets to see.
#[derive(Debug, Clone)]
struct View {
    report: Arc<StatusReport>,
    turned_at: Mono,
    clocks: Clocks,
}

async fn serve(stream: TcpStream, view: View) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &view);
        async move { Ok::<_, Infallible>(answer) }
    });
    // One request a connection: a kept connection would show an old report again.
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!("a health connection broke: {error}"),
    }
}

fn answer(method: &Method, path: &str, view: &View) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD\n".to_owned(),
        );
    }
    let age = view.clocks.mono().since(view.turned_at);
    match path {
        "/healthz" => health(age),
        "/readyz" => readiness(&view.report),
        "/status" => match serde_json::to_string(view.report.as_ref()) {
            Ok(json) => typed(StatusCode::OK, "application/json", json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/metrics" => {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            typed(
                StatusCode::OK,
                metrics::MEDIA_TYPE,
                metrics::render(&view.report, age_ms),
            )
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz, /status and /metrics\n".to_owned(),
        ),
    }
}

fn health(age: Duration) -> Response<Full<Bytes>> {
    if age <= LOOP_AGE_MAX {
        return text(StatusCode::OK, "ok\n".to_owned());
    }
    let said = format!("the agent's loop has not turned for {} s\n", age.as_secs());
    text(StatusCode::SERVICE_UNAVAILABLE, said)
}

fn readiness(report: &StatusReport) -> Response<Full<Bytes>> {
    let node = &report.node;
    let serves = node.state == NodeState::Ready && node.gate_open && node.postgres_error.is_none();
    if serves && node.withheld.is_none() {
        let rows = match report.rows.is_clean() {
            true => "ready\n",
            false => "ready; rows are being compared with the other nodes\n",
        };
        return text(StatusCode::OK, rows.to_owned());
    }
    let because = match (serves, &node.withheld) {
        (true, Some(withheld)) => withheld,
        (true, None) | (false, _) => node.postgres_error.as_ref().unwrap_or(&node.because),
    };
    let said = format!("{}: {because}\n", node.state.word());
    text(StatusCode::SERVICE_UNAVAILABLE, said)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::fixture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn each_path_answers_over_a_real_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reports, status) = watch::channel(Arc::new(fixture::mesh()));
        let served = tokio::spawn(run(listener, status, Clocks::start()));
        let path = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            get(address, &path("/healthz"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            get(address, &path("/readyz"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            get(address, &path("/metrics"))
                .await
                .contains("\npgaa_node_ready 1\n")
        );
        assert!(
            get(address, &path("/status"))
                .await
                .contains("{\"schema_version\":1,")
        );
        assert!(get(address, &path("/x")).await.starts_with("HTTP/1.1 404"));
        let post = "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        assert!(get(address, post).await.starts_with("HTTP/1.1 405"));
        assert!(
            get(address, "nonsense\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400")
        );
        reports.send_replace(Arc::new(fixture::forming()));
        let answer = get(address, &path("/readyz")).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.ends_with("forming: peers answer, none is a member\n"),
            "{answer}"
        );
        drop(reports);
        served.await.unwrap().unwrap();
    }

    #[test]
    fn a_loop_that_hangs_is_unhealthy() {
        assert_eq!(health(LOOP_AGE_MAX).status(), StatusCode::OK);
        let hangs = health(LOOP_AGE_MAX + Duration::from_secs(1));
        assert_eq!(hangs.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
