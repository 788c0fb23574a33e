//! The raw requests as one family, so that routing, retries and errors are written once.

use std::future::Future;

use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::{self, Context};
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// A raw request.
pub(super) trait RawRequest: Clone + Send + 'static {
    /// Its reply.
    type Reply: RawReply;

    fn set_context(&mut self, context: Context);

    fn send(
        request: Request<Self>,
        client: TikvClient<Channel>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
}

/// A reply to a raw request.
pub(super) trait RawReply: Send + 'static {
    fn take_region_error(&mut self) -> Option<errorpb::Error>;

    /// The store's refusal; empty = none.
    fn take_error(&mut self) -> String;
}

macro_rules! raw_requests {
    ($($request:ident => $method:ident -> $reply:ident $( ($error:ident) )?;)*) => {
        $(
            impl RawRequest for kvrpcpb::$request {
                type Reply = kvrpcpb::$reply;

                fn set_context(&mut self, context: Context) {
                    self.context = Some(context);
                }

                async fn send(
                    request: Request<Self>,
                    mut client: TikvClient<Channel>,
                ) -> Result<Response<Self::Reply>, Status> {
                    client.$method(request).await
                }
            }

            impl RawReply for kvrpcpb::$reply {
                fn take_region_error(&mut self) -> Option<errorpb::Error> {
                    self.region_error.take()
                }

                fn take_error(&mut self) -> String {
                    $( return std::mem::take(&mut self.$error); )?
                    #[allow(unreachable_code)]
                    String::new()
                }
            }
        )*
    };
}

raw_requests! {
    RawGetRequest => raw_get -> RawGetResponse (error);
    RawBatchGetRequest => raw_batch_get -> RawBatchGetResponse;
    RawPutRequest => raw_put -> RawPutResponse (error);
    RawBatchPutRequest => raw_batch_put -> RawBatchPutResponse (error);
    RawDeleteRequest => raw_delete -> RawDeleteResponse (error);
    RawBatchDeleteRequest => raw_batch_delete -> RawBatchDeleteResponse (error);
    RawDeleteRangeRequest => raw_delete_range -> RawDeleteRangeResponse (error);
    RawScanRequest => raw_scan -> RawScanResponse;
    RawGetKeyTtlRequest => raw_get_key_ttl -> RawGetKeyTtlResponse (error);
    RawCasRequest => raw_compare_and_swap -> RawCasResponse (error);
    RawChecksumRequest => raw_checksum -> RawChecksumResponse (error);
}
