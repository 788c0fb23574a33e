//! What clients see.
//!
//! | request | does | answers |
//! |---|---|---|
//! | `GET /kv/KEY` | a linearizable read, at any peer | 200 and the value, or 404 |
//! | `PUT /kv/KEY` | sets the value to the body, at any peer | 204 |
//! | `DELETE /kv/KEY` | removes the key, at any peer | 204 |
//! | `PUT /members/ID` | adds a peer, body `{"raft": "HOST:PORT", "http": "HOST:PORT"}` | 204, 307 to the leader, 409 |
//! | `DELETE /members/ID` | removes a peer | 204, 307 to the leader, 409 |
//! | `GET /status` | how this peer stands | 200 and JSON |
//!
//! 503: surely not done, try again. 410: this peer was removed. 504: no answer in time; a write may have been made, or
//! may still be.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::{get, put},
};
use bytes::Bytes;
use flotilla_raft::PeerId;
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    machine::{Addresses, Operation},
    requests::{Event, Refusal, Reply, Request},
};

/// Longest time a client waits.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
/// Longest value.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// The body of `PUT /members/ID`.
#[derive(Debug, Deserialize)]
struct NewMember {
    raft: SocketAddr,
    http: SocketAddr,
}

/// Why there is no good answer.
enum Failure {
    /// Surely not done.
    Refused(Refusal),
    /// Nobody knows.
    NoAnswer,
}

/// The address of the loop.
type Inbox = State<mpsc::Sender<Event>>;

/// All pages.
pub fn router(inbox: mpsc::Sender<Event>) -> Router {
    Router::new()
        .route("/kv/{*key}", get(on_get).put(on_put).delete(on_delete))
        .route("/members/{id}", put(on_add).delete(on_remove))
        .route("/status", get(on_status))
        .layer(DefaultBodyLimit::max(VALUE_BYTES_MAX))
        .with_state(inbox)
}

async fn on_get(inbox: Inbox, Path(key): Path<String>) -> Result<Response, Failure> {
    let value = ask(inbox, |reply| Request::Get(key, reply)).await?;
    Ok(value.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response))
}

async fn on_put(inbox: Inbox, Path(key): Path<String>, value: Bytes) -> Result<StatusCode, Failure> {
    // A value of its own: the body may share a larger buffer.
    let operation = Operation::Put(Bytes::copy_from_slice(&value));
    ask(inbox, |reply| Request::Write(key, operation, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn on_delete(inbox: Inbox, Path(key): Path<String>) -> Result<StatusCode, Failure> {
    ask(inbox, |reply| Request::Write(key, Operation::Delete, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn on_add(
    inbox: Inbox,
    Path(id): Path<u64>,
    Json(NewMember { raft, http }): Json<NewMember>,
) -> Result<StatusCode, Response> {
    let asked = ask(inbox, |reply| Request::AddPeer(PeerId(id), Addresses { raft, http }, reply)).await;
    asked.map(|()| StatusCode::NO_CONTENT).map_err(|failure| redirect_to_leader(failure, id))
}

async fn on_remove(inbox: Inbox, Path(id): Path<u64>) -> Result<StatusCode, Response> {
    let asked = ask(inbox, |reply| Request::RemovePeer(PeerId(id), reply)).await;
    asked.map(|()| StatusCode::NO_CONTENT).map_err(|failure| redirect_to_leader(failure, id))
}

async fn on_status(inbox: Inbox) -> Result<Response, Failure> {
    let status = ask(inbox, Request::Status).await?;
    Ok(Json(status).into_response())
}

/// Asks the loop, and waits for its answer.
async fn ask<T>(State(inbox): Inbox, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        inbox.send(Event::Request(request(reply))).await.ok()?;
        answer.await.ok()
    };
    match timeout(REQUEST_LIMIT, asked).await {
        Ok(Some(result)) => result.map_err(Failure::Refused),
        _ => Err(Failure::NoAnswer),
    }
}

fn redirect_to_leader(failure: Failure, id: u64) -> Response {
    match failure {
        Failure::Refused(Refusal::NotLeader(leader)) => {
            Redirect::temporary(&format!("http://{leader}/members/{id}")).into_response()
        }
        other => other.into_response(),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let refusal = match self {
            Failure::Refused(refusal) => refusal,
            Failure::NoAnswer => {
                let text = "no answer in time; a write may have been made, or may still be\n";
                return (StatusCode::GATEWAY_TIMEOUT, text).into_response();
            }
        };
        let code = match refusal {
            Refusal::NoLeader | Refusal::NotLeader(_) | Refusal::ChangePending => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Removed => StatusCode::GONE,
            Refusal::AlreadyMember | Refusal::UsedBefore | Refusal::NotMember | Refusal::Impossible => {
                StatusCode::CONFLICT
            }
        };
        (code, format!("{refusal}\n")).into_response()
    }
}
