//! One attempt at one region, and the attempts that make a call.
#![allow(clippy::disallowed_methods, reason = "the asynchronous shell is where time passes")]

use std::future::Future;

use bytes::Bytes;
use flotilla_proto::kvrpcpb::Context;
use flotilla_proto::{errorpb, pdpb};
use tokio::time::{Duration, Instant};
use tonic::{Code, Request, Status};

use super::Client;
use super::endpoints::is_transport_failure;
use super::request::{RawReply, RawRequest};
use crate::error::{Error, Result};
use crate::learn::{Asked, learn};
use crate::region_cache::{Inserted, Route};
use crate::retry::{CallClass, Decision, FailureKind, RetryPlan};
use crate::wire::{epoch_to_proto, peer_from_proto, peer_to_proto, region_from_proto};

/// Regions fetched at once when the cache misses: neighbours are often wanted next.
const LOAD_REGIONS: i32 = 32;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) pause_ms_min: u64,
    /// What to report instead of the kind, where the service said more.
    pub(super) error: Option<Error>,
}

impl Failure {
    pub(super) fn of(kind: FailureKind) -> Self {
        Self { kind, pause_ms_min: 0, error: None }
    }

    /// Another attempt would fail the same way.
    pub(super) fn fatal(error: Error) -> Self {
        Self { kind: FailureKind::Rejected, pause_ms_min: 0, error: Some(error) }
    }
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub(super) enum Position {
    /// The region that holds the key.
    At(Bytes),
    /// The region that holds the keys just below the bound, which is not empty.
    Before(Bytes),
}

/// The attempts of one call.
pub(super) struct Attempts {
    plan: RetryPlan,
    started: Instant,
}

impl Attempts {
    /// Waits before the next attempt, or ends the call.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<()> {
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = failure.kind;
        match self.plan.on_failure(last, elapsed_ms, failure.pause_ms_min) {
            Decision::RetryAfterMs(pause_ms) => {
                tracing::trace!(%last, pause_ms, "another attempt follows");
                if pause_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                Ok(())
            }
            Decision::Undetermined => Err(Error::Undetermined { last }),
            Decision::Fail => Err(failure.error.unwrap_or(Error::Exhausted { last, elapsed_ms })),
        }
    }
}

impl Client {
    pub(super) fn attempts(&self, class: CallClass) -> Attempts {
        let plan = RetryPlan::new(class, self.inner.options.retry, self.next_seed());
        Attempts { plan, started: Instant::now() }
    }

    /// Repeats `attempt` as the retry plan says.
    pub(super) async fn retry<T, Fut>(&self, class: CallClass, attempt: impl Fn() -> Fut) -> Result<T>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = self.attempts(class);
        loop {
            match attempt().await {
                Ok(reply) => return Ok(reply),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    /// Sends a request about one key.
    pub(super) async fn call<R: RawRequest>(
        &self,
        key: &Bytes,
        class: CallClass,
        request: R,
    ) -> Result<R::Reply> {
        let (_, reply) = self.call_at(Position::At(key.clone()), class, |_| request.clone()).await?;
        Ok(reply)
    }

    /// Sends to the region at `position` the request that `build` makes for it. The reply is about exactly the
    /// region returned: a store answers no request with another version.
    pub(super) async fn call_at<R: RawRequest>(
        &self,
        position: Position,
        class: CallClass,
        build: impl Fn(&Route) -> R,
    ) -> Result<(Route, R::Reply)> {
        self.retry(class, || async {
            let route = self.route(&position).await?;
            let reply = self.attempt(&route, build(&route)).await?;
            Ok((route, reply))
        })
        .await
    }

    /// The route to the region at `position`, from the cache or else from placement.
    pub(super) async fn route(&self, position: &Position) -> Result<Route, Failure> {
        if let Some(route) = self.cached(position) {
            return Ok(route);
        }
        let _one_at_a_time = self.inner.loading.lock().await;
        if let Some(route) = self.cached(position) {
            return Ok(route);
        }
        let regions = match position {
            Position::At(key) => self.inner.placement.scan_regions(key.clone(), LOAD_REGIONS).await?,
            Position::Before(bound) => {
                self.inner.placement.region_before(bound.clone()).await?.into_iter().collect()
            }
        };
        let first = regions.first().and_then(as_route);
        self.learn_regions(&regions);
        // If the cache refused the answer as older than what it knows in part, it is still the best there is: the
        // store will say what is wrong with it.
        let fits = |route: &Route| match position {
            Position::At(key) => route.region.range.contains(key),
            Position::Before(bound) => {
                let range = &route.region.range;
                range.start < *bound && (range.end.is_empty() || *bound <= range.end)
            }
        };
        self.cached(position).or(first.filter(fits)).ok_or(Failure::of(FailureKind::NoPlacement))
    }

    fn cached(&self, position: &Position) -> Option<Route> {
        let cache = self.inner.cache.lock();
        match position {
            Position::At(key) => cache.locate(key).cloned(),
            Position::Before(bound) => cache.locate_before(bound).cloned(),
        }
    }

    fn learn_regions(&self, regions: &[pdpb::Region]) {
        let mut cache = self.inner.cache.lock();
        for route in regions.iter().filter_map(as_route) {
            let leader = route.leader().map(|peer| peer.id);
            let region = std::sync::Arc::unwrap_or_clone(route.region);
            let id = region.id;
            if cache.insert(region, leader) == Inserted::Stale {
                tracing::debug!(region = %id, "placement is behind what stores said");
            }
        }
    }

    /// Sends one request to the route's target and learns from what comes back.
    pub(super) async fn attempt<R: RawRequest>(
        &self,
        route: &Route,
        mut request: R,
    ) -> Result<R::Reply, Failure> {
        let asked = Asked::on(route).ok_or(Failure::of(FailureKind::NoPlacement))?;
        let peer = route.target().expect("`asked` names it");
        let stores = &self.inner.stores;
        let connection = match stores.connection(asked.store, &self.inner.placement).await {
            Ok(connection) => connection,
            Err(failure) => {
                match failure.kind {
                    FailureKind::Unreachable => self.inner.cache.lock().peer_failed(asked.region, asked.peer),
                    FailureKind::RouteUnknown => {
                        self.inner.cache.lock().invalidate(asked.region, asked.epoch)
                    }
                    _ => {}
                }
                return Err(failure);
            }
        };
        request.set_context(Context {
            region_id: asked.region.get(),
            region_epoch: Some(epoch_to_proto(asked.epoch)),
            peer: Some(peer_to_proto(&peer)),
            cluster_id: self.inner.placement.cluster_id(),
            ..Default::default()
        });
        let timeout = self.inner.options.rpc_timeout;
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        let sent = R::send(request, connection.client.clone());
        let reply = match tokio::time::timeout(timeout, sent).await {
            Ok(reply) => reply,
            Err(_) => Err(Status::deadline_exceeded("no reply in time")),
        };
        match reply {
            Ok(reply) => self.take(asked, reply.into_inner()),
            Err(status) if is_transport_failure(status.code()) => {
                tracing::debug!(store = %asked.store, code = %status.code(), "no reply: {}", status.message());
                if status.code() != Code::DeadlineExceeded {
                    stores.disconnect(asked.store, &connection).await;
                }
                self.inner.cache.lock().peer_failed(asked.region, asked.peer);
                Err(Failure::of(FailureKind::NoReply))
            }
            Err(status) => Err(Failure::fatal(Error::Status(Box::new(status)))),
        }
    }

    fn take<R: RawReply>(&self, asked: Asked, mut reply: R) -> Result<R, Failure> {
        if let Some(error) = reply.take_region_error() {
            return Err(self.learn_error(asked, &error));
        }
        let message = reply.take_error();
        if !message.is_empty() {
            return Err(Failure::fatal(Error::Rejected { message }));
        }
        Ok(reply)
    }

    fn learn_error(&self, asked: Asked, error: &errorpb::Error) -> Failure {
        let lesson = learn(&mut self.inner.cache.lock(), asked, error);
        tracing::debug!(region = %asked.region, kind = %lesson.kind, "region error: {}", error.message);
        if lesson.forget_store {
            self.inner.stores.forget(asked.store);
        }
        let error = error.raft_entry_too_large.as_ref().map(|e| Error::EntryTooLarge { bytes: e.entry_size });
        Failure { kind: lesson.kind, pause_ms_min: lesson.pause_ms_min, error }
    }
}

fn as_route(region: &pdpb::Region) -> Option<Route> {
    let leader = region.leader.as_ref().and_then(peer_from_proto).map(|peer| peer.id);
    Some(Route::new(region_from_proto(region.region.as_ref()?)?, leader))
}
