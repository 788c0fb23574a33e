//! What is wrong with a request, as far as it can be told without its region.

use flotilla_proto::kvrpcpb::{ApiVersion, Context};
use flotilla_raftstore::{RegionContext, RequestError, wire};
use flotilla_region::{ClusterId, KEY_BYTES_MAX, PeerId, RegionId, StoreId, Term};
use tonic::Status;

use super::failure::Failure;

/// For whom a request is meant: the first of TiKV's checks. Region, peer, leader, term and epoch are the store's to
/// check, in that order.
pub fn context(
    context: Option<&Context>,
    cluster: ClusterId,
    store: StoreId,
) -> Result<RegionContext, Failure> {
    let none = Context::default();
    let context = context.unwrap_or(&none);
    if context.cluster_id != 0 && context.cluster_id != cluster.0 {
        let why = format!("cluster id mismatch: request {}, store {cluster}", context.cluster_id);
        return Err(Failure::Status(Status::invalid_argument(why)));
    }
    let version = context.api_version;
    if version != ApiVersion::V1 as i32 && version != ApiVersion::V1ttl as i32 {
        let asked = ApiVersion::try_from(version).map_or("unknown", |v| v.as_str_name());
        let why = format!("Api version in request does not match: store V1TTL, request {asked}");
        return Err(Failure::Text(why));
    }
    let peer = context.peer.unwrap_or_default();
    if peer.store_id != 0 && peer.store_id != store.0 {
        return Err(RequestError::StoreMismatch { asked: StoreId(peer.store_id), actual: store }.into());
    }
    let region = RegionId(context.region_id);
    if region == RegionId::META {
        // Clients have no business there, and must not learn that it exists.
        return Err(RequestError::RegionNotFound(region).into());
    }
    Ok(RegionContext {
        region,
        epoch: context.region_epoch.as_ref().map(wire::epoch_from_wire).unwrap_or_default(),
        peer: PeerId(peer.id),
        term: Term(context.term),
    })
}

/// A key that must name something.
pub fn key(key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::text("key must not be empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        let why = format!("max key size exceeded, size: {}, limit: {KEY_BYTES_MAX}", key.len());
        return Err(Failure::Text(why));
    }
    Ok(())
}

/// All of several keys.
pub fn keys<'a>(keys: impl IntoIterator<Item = &'a bytes::Bytes>) -> Result<(), Failure> {
    keys.into_iter().try_for_each(|k| key(k))
}

/// There is one column family, under its name or none.
pub fn cf(name: &str) -> Result<(), Failure> {
    match name {
        "" | "default" => Ok(()),
        other => Err(Failure::Text(format!("invalid cf name: {other}"))),
    }
}

/// Seconds to live of each of `pairs` pairs: `ttls` has none, one for all, or one each; `ttl` is its older form.
pub fn ttls(ttls: &[u64], ttl: u64, pairs: usize) -> Result<impl Fn(usize) -> u64 + '_, Failure> {
    if ttls.len() > 1 && ttls.len() != pairs {
        let why = format!("{} ttls for {pairs} pairs: give none, one or one each", ttls.len());
        return Err(Failure::Text(why));
    }
    Ok(move |i: usize| match ttls {
        [] => ttl,
        [all] => *all,
        each => each[i],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::metapb;

    fn text(failure: Failure) -> String {
        match failure {
            Failure::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    fn checked(context: &Context) -> Result<RegionContext, Failure> {
        super::context(Some(context), ClusterId(5), StoreId(2))
    }

    #[test]
    fn another_cluster_store_or_api_version_is_refused_in_that_order() {
        let peer = Some(metapb::Peer { id: 9, store_id: 3, ..Default::default() });
        let mut request = Context { cluster_id: 6, api_version: 2, peer, region_id: 7, ..Default::default() };
        assert!(matches!(checked(&request), Err(Failure::Status(_))));
        request.cluster_id = 5;
        assert!(text(checked(&request).unwrap_err()).contains("request V2"));
        request.api_version = 0;
        let error = checked(&request).unwrap_err();
        assert!(matches!(error, Failure::Region(RequestError::StoreMismatch { .. })));
        request.peer = Some(metapb::Peer { id: 9, store_id: 2, ..Default::default() });
        let context = checked(&request).unwrap();
        assert_eq!((context.region, context.peer), (RegionId(7), PeerId(9)));
        request.region_id = 1;
        let error = checked(&request).unwrap_err();
        assert!(matches!(error, Failure::Region(RequestError::RegionNotFound(RegionId::META))));
    }

    #[test]
    fn keys_are_neither_empty_nor_too_long() {
        assert_eq!(text(key(b"").unwrap_err()), "key must not be empty");
        assert!(key(&vec![1; KEY_BYTES_MAX]).is_ok());
        let error = text(key(&vec![1; KEY_BYTES_MAX + 1]).unwrap_err());
        assert_eq!(error, "max key size exceeded, size: 8193, limit: 8192");
    }

    #[test]
    fn ttls_are_none_one_or_one_each() {
        let of = |list: &[u64], ttl, pairs| {
            ttls(list, ttl, pairs).map(|of| (0..pairs).map(of).collect::<Vec<_>>()).map_err(text)
        };
        assert_eq!(of(&[], 0, 2), Ok(vec![0, 0]));
        assert_eq!(of(&[], 4, 2), Ok(vec![4, 4]));
        assert_eq!(of(&[7], 0, 2), Ok(vec![7, 7]));
        assert_eq!(of(&[7, 8], 0, 2), Ok(vec![7, 8]));
        assert!(of(&[7, 8], 0, 3).is_err());
        assert!(cf("default").is_ok() && cf("").is_ok());
        assert_eq!(text(cf("write").unwrap_err()), "invalid cf name: write");
    }
}
