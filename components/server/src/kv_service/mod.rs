//! TiKV's raw key-value service over the regions of this store.

mod access;
mod batch;
mod check;
mod door;
mod failure;
mod read;
mod throttle;
mod write;

use std::future::Future;
use std::sync::{Arc, OnceLock};

use flotilla_proto::kvrpcpb as rpc;
use flotilla_proto::tikvpb::BatchCommandsRequest;
use flotilla_proto::tikvpb::tikv_server::Tikv;
use flotilla_raftstore::RegionContext;
use tonic::{Request, Response, Status, Streaming};

use crate::metrics::Metrics;
use crate::node::Node;
use crate::region_error::region_error;
use access::Access;
use failure::{Failure, Refusable};

/// The service as long as the process lives; it answers once the store is open.
#[derive(Clone)]
pub struct KvService {
    node: Arc<Node>,
    read_bytes_max: u64,
    open: Arc<OnceLock<Arc<Kv>>>,
}

/// The service of an open store.
struct Kv {
    access: Access,
    node: Arc<Node>,
}

impl KvService {
    /// Of this process. Scans and the like may hold so many bytes.
    pub fn new(node: Arc<Node>, read_bytes_max: u64) -> Self {
        Self { node, read_bytes_max, open: Arc::default() }
    }

    fn open(&self) -> Result<&Arc<Kv>, Status> {
        if let Some(kv) = self.open.get() {
            return Ok(kv);
        }
        let store = self.node.store()?.clone();
        Ok(self.open.get_or_init(|| {
            let access = Access::new(store, self.read_bytes_max);
            let (throttle, engine) = (Arc::downgrade(access.throttle()), access.store().engine().clone());
            tokio::spawn(throttle::watch(throttle, engine, self.node.metrics.write_rate.clone()));
            Arc::new(Kv { access, node: self.node.clone() })
        }))
    }

    async fn answer<T: Refusable, W: Future<Output = Result<T, Failure>>>(
        &self,
        rpc: &'static str,
        work: impl FnOnce(Arc<Kv>) -> W,
    ) -> Result<Response<T>, Status> {
        let _timed = self.node.metrics.start(rpc);
        let kv = self.open()?;
        match work(kv.clone()).await {
            Ok(reply) => Ok(Response::new(reply)),
            Err(failure) => kv.refuse(failure).map(Response::new),
        }
    }
}

impl Kv {
    fn metrics(&self) -> &Metrics {
        &self.node.metrics
    }

    fn context(&self, context: Option<&rpc::Context>) -> Result<RegionContext, Failure> {
        let (cluster, store) = self.access.store().id();
        check::context(context, cluster, store)
    }

    fn refuse<T: Refusable>(&self, failure: Failure) -> Result<T, Status> {
        match failure {
            Failure::Status(status) => Err(status),
            Failure::Text(text) | Failure::Damaged(text) => Ok(T::failed(text)),
            Failure::Region(error) => {
                let (kind, error) = region_error(&error);
                self.metrics().region_error(kind);
                Ok(T::refused(error))
            }
        }
    }
}

fn no_coprocessor() -> rpc::RawCoprocessorResponse {
    rpc::RawCoprocessorResponse::failed("this store runs no coprocessor plugins".into())
}

/// Methods that only hand their request on.
macro_rules! methods {
    ($($method:ident($request:ident) -> $reply:ident;)*) => {
        #[tonic::async_trait]
        impl Tikv for KvService {
            $(
                async fn $method(
                    &self,
                    request: Request<rpc::$request>,
                ) -> Result<Response<rpc::$reply>, Status> {
                    let request = request.into_inner();
                    self.answer(stringify!($method), |kv| async move { kv.$method(request).await }).await
                }
            )*

            async fn raw_coprocessor(
                &self,
                _: Request<rpc::RawCoprocessorRequest>,
            ) -> Result<Response<rpc::RawCoprocessorResponse>, Status> {
                Ok(Response::new(no_coprocessor()))
            }

            type BatchCommandsStream = batch::Answers;

            async fn batch_commands(
                &self,
                request: Request<Streaming<BatchCommandsRequest>>,
            ) -> Result<Response<Self::BatchCommandsStream>, Status> {
                let kv = self.open()?.clone();
                Ok(Response::new(batch::serve(kv, request.into_inner())))
            }
        }
    };
}

methods! {
    raw_get(RawGetRequest) -> RawGetResponse;
    raw_batch_get(RawBatchGetRequest) -> RawBatchGetResponse;
    raw_put(RawPutRequest) -> RawPutResponse;
    raw_batch_put(RawBatchPutRequest) -> RawBatchPutResponse;
    raw_delete(RawDeleteRequest) -> RawDeleteResponse;
    raw_batch_delete(RawBatchDeleteRequest) -> RawBatchDeleteResponse;
    raw_delete_range(RawDeleteRangeRequest) -> RawDeleteRangeResponse;
    raw_scan(RawScanRequest) -> RawScanResponse;
    raw_batch_scan(RawBatchScanRequest) -> RawBatchScanResponse;
    raw_get_key_ttl(RawGetKeyTtlRequest) -> RawGetKeyTtlResponse;
    raw_compare_and_swap(RawCasRequest) -> RawCasResponse;
    raw_checksum(RawChecksumRequest) -> RawChecksumResponse;
}
