//! BatchCommands: many requests on one stream, answered in any order, as Go clients send them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use flotilla_proto::tikvpb::{
    BatchCommandsEmptyResponse, BatchCommandsRequest, BatchCommandsResponse, batch_commands_request,
    batch_commands_response,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::Kv;
use super::failure::{Failure, Refusable};

use batch_commands_request::request::Cmd as Asked;
use batch_commands_response::response::Cmd as Answered;

/// Requests of one stream that are under way at once; further ones wait in the connection.
const UNDER_WAY_MAX: usize = 4_096;
/// Answers that share a message.
const ANSWERS_MAX: usize = 256;

type Answer = (u64, Option<Answered>);

/// What the method returns.
pub type Answers = Pin<Box<dyn Stream<Item = Result<BatchCommandsResponse, Status>> + Send>>;

/// Serves one stream until the client closes it or sends something malformed.
pub fn serve(kv: Arc<Kv>, mut requests: Streaming<BatchCommandsRequest>) -> Answers {
    let (answer, answers) = mpsc::channel::<Answer>(UNDER_WAY_MAX);
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        while let Some(Ok(batch)) = requests.next().await {
            for (request, id) in batch.requests.into_iter().zip(batch.request_ids) {
                let Ok(permit) = room.clone().acquire_owned().await else { return };
                let (kv, answer) = (kv.clone(), answer.clone());
                tokio::spawn(async move {
                    let answered = answer_one(&kv, request.cmd).await;
                    // The client may have gone.
                    let _ = answer.send((id, answered)).await;
                    drop(permit);
                });
            }
        }
    });
    tokio::spawn(gather(answers, send));
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receive))
}

/// Puts answers that are ready at the same time into one message.
async fn gather(
    mut answers: mpsc::Receiver<Answer>,
    send: mpsc::Sender<Result<BatchCommandsResponse, Status>>,
) {
    let mut ready = Vec::new();
    while answers.recv_many(&mut ready, ANSWERS_MAX).await > 0 {
        let mut message = BatchCommandsResponse::default();
        for (id, cmd) in ready.drain(..) {
            message.request_ids.push(id);
            message.responses.push(batch_commands_response::Response { cmd });
        }
        if send.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

async fn answer_one(kv: &Kv, request: Option<Asked>) -> Option<Answered> {
    Some(match request? {
        Asked::RawGet(r) => Answered::RawGet(settle(kv, kv.raw_get(r)).await),
        Asked::RawBatchGet(r) => Answered::RawBatchGet(settle(kv, kv.raw_batch_get(r)).await),
        Asked::RawPut(r) => Answered::RawPut(settle(kv, kv.raw_put(r)).await),
        Asked::RawBatchPut(r) => Answered::RawBatchPut(settle(kv, kv.raw_batch_put(r)).await),
        Asked::RawDelete(r) => Answered::RawDelete(settle(kv, kv.raw_delete(r)).await),
        Asked::RawBatchDelete(r) => Answered::RawBatchDelete(settle(kv, kv.raw_batch_delete(r)).await),
        Asked::RawScan(r) => Answered::RawScan(settle(kv, kv.raw_scan(r)).await),
        Asked::RawDeleteRange(r) => Answered::RawDeleteRange(settle(kv, kv.raw_delete_range(r)).await),
        Asked::RawBatchScan(r) => Answered::RawBatchScan(settle(kv, kv.raw_batch_scan(r)).await),
        Asked::RawCoprocessor(_) => Answered::RawCoprocessor(super::no_coprocessor()),
        Asked::Empty(r) => Answered::Empty(BatchCommandsEmptyResponse { test_id: r.test_id }),
    })
}

/// The reply, or the refusal in the reply's own form: one request of a stream must not end the others.
async fn settle<T: Refusable>(kv: &Kv, work: impl Future<Output = Result<T, Failure>>) -> T {
    let _timed = kv.metrics().start("batch_commands");
    match work.await {
        Ok(reply) => reply,
        Err(Failure::Status(status)) => T::failed(status.message().to_string()),
        Err(failure) => kv.refuse(failure).unwrap_or_else(|status| T::failed(status.message().to_string())),
    }
}
