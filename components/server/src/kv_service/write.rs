//! The raw writes.

use flotilla_kv::{Command, Put, Reply};
use flotilla_proto::kvrpcpb as rpc;

use super::failure::Failure;
use super::{Kv, check};

impl Kv {
    pub(super) async fn raw_put(&self, request: rpc::RawPutRequest) -> Result<rpc::RawPutResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::key(&request.key)?;
        let put = Put { key: &request.key, value: &request.value, ttl_s: request.ttl };
        self.access.write(context, &Command::Put([put].into())).await?;
        Ok(rpc::RawPutResponse::default())
    }

    pub(super) async fn raw_batch_put(
        &self,
        request: rpc::RawBatchPutRequest,
    ) -> Result<rpc::RawBatchPutResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::keys(request.pairs.iter().map(|pair| &pair.key))?;
        let ttl_of = check::ttls(&request.ttls, request.ttl, request.pairs.len())?;
        let pairs = request.pairs.iter().enumerate();
        let puts = pairs.map(|(i, pair)| Put { key: &pair.key, value: &pair.value, ttl_s: ttl_of(i) });
        self.access.write(context, &Command::Put(puts.collect())).await?;
        Ok(rpc::RawBatchPutResponse::default())
    }

    pub(super) async fn raw_delete(
        &self,
        request: rpc::RawDeleteRequest,
    ) -> Result<rpc::RawDeleteResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::key(&request.key)?;
        self.access.write(context, &Command::Delete([&request.key[..]].into())).await?;
        Ok(rpc::RawDeleteResponse::default())
    }

    pub(super) async fn raw_batch_delete(
        &self,
        request: rpc::RawBatchDeleteRequest,
    ) -> Result<rpc::RawBatchDeleteResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::keys(&request.keys)?;
        let keys = request.keys.iter().map(|key| &key[..]).collect();
        self.access.write(context, &Command::Delete(keys)).await?;
        Ok(rpc::RawBatchDeleteResponse::default())
    }

    pub(super) async fn raw_delete_range(
        &self,
        request: rpc::RawDeleteRangeRequest,
    ) -> Result<rpc::RawDeleteRangeResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        let range = Command::DeleteRange { start: &request.start_key, end: &request.end_key };
        self.access.write(context, &range).await?;
        Ok(rpc::RawDeleteRangeResponse::default())
    }

    pub(super) async fn raw_compare_and_swap(
        &self,
        request: rpc::RawCasRequest,
    ) -> Result<rpc::RawCasResponse, Failure> {
        let context = self.context(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::key(&request.key)?;
        let expected = (!request.previous_not_exist).then_some(&request.previous_value[..]);
        let new = (!request.delete).then_some((&request.value[..], request.ttl));
        let swap = Command::CompareAndSwap { key: &request.key, expected, new };
        match self.access.write(context, &swap).await? {
            Reply::Swapped { succeeded, previous } => Ok(rpc::RawCasResponse {
                succeed: succeeded,
                previous_not_exist: previous.is_none(),
                previous_value: previous.unwrap_or_default(),
                ..Default::default()
            }),
            other => Err(Failure::Text(format!("unexpected reply of the region: {other:?}"))),
        }
    }
}
