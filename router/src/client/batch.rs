//! Calls about many keys: split by region and size, sent at once, put together again.
#![allow(clippy::disallowed_methods, reason = "the asynchronous shell is where tasks run")]

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Client;
use super::call::{Failure, Position};
use super::request::RawRequest;
use crate::error::Result;
use crate::region_cache::Route;
use crate::retry::CallClass;

/// Something about one key.
pub(super) trait Keyed: Clone + Send + 'static {
    fn key(&self) -> &Bytes;

    /// Bytes it adds to a request.
    fn weight(&self) -> usize;
}

impl Keyed for Bytes {
    fn key(&self) -> &Bytes {
        self
    }

    fn weight(&self) -> usize {
        self.len()
    }
}

impl Keyed for (Bytes, Bytes) {
    fn key(&self) -> &Bytes {
        &self.0
    }

    fn weight(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

/// Items of one region that fit into one request.
struct Group<I> {
    route: Route,
    items: Vec<I>,
    weight: usize,
}

impl Client {
    /// Sends requests about `items`, which are in ascending order of key without repetition. Groups that fail for
    /// their route are grouped anew, as the region may have split meanwhile.
    pub(super) async fn batch<I: Keyed, R: RawRequest>(
        &self,
        items: Vec<I>,
        class: CallClass,
        build: fn(Vec<I>) -> R,
    ) -> Result<Vec<R::Reply>> {
        let mut attempts = self.attempts(class);
        let mut replies = Vec::new();
        let mut pending = items;
        while !pending.is_empty() {
            let groups = match self.group(&pending).await {
                Ok(groups) => groups,
                Err(failure) => {
                    attempts.after(failure).await?;
                    continue;
                }
            };
            let (failed, failures) = self.send_groups(groups, build, &mut replies).await;
            pending = failed;
            // One pause for all; what leaves the outcome open or ends the call counts first.
            let worst = failures.into_iter().max_by_key(|f| {
                (f.kind.may_have_applied(), f.kind.backoff_ms().is_none(), f.pause_ms_min, f.kind)
            });
            if let Some(worst) = worst {
                attempts.after(worst).await?;
            }
        }
        Ok(replies)
    }

    async fn send_groups<I: Keyed, R: RawRequest>(
        &self,
        groups: Vec<Group<I>>,
        build: fn(Vec<I>) -> R,
        replies: &mut Vec<R::Reply>,
    ) -> (Vec<I>, Vec<Failure>) {
        let permits = Arc::new(Semaphore::new(self.inner.options.batch_concurrency_max.max(1)));
        let mut tasks = JoinSet::new();
        for group in groups {
            let client = self.clone();
            let permits = permits.clone();
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                let reply = client.attempt(&group.route, build(group.items.clone())).await;
                (group.items, reply)
            });
        }
        let mut failed = Vec::new();
        let mut failures = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            match joined.expect("attempts do not panic and are not cancelled") {
                (_, Ok(reply)) => replies.push(reply),
                (items, Err(failure)) => {
                    failed.extend(items);
                    failures.push(failure);
                }
            }
        }
        failed.sort_by(|a, b| a.key().cmp(b.key()));
        (failed, failures)
    }

    async fn group<I: Keyed>(&self, items: &[I]) -> Result<Vec<Group<I>>, Failure> {
        let options = &self.inner.options;
        let mut groups: Vec<Group<I>> = Vec::new();
        for item in items {
            let fits = groups.last().is_some_and(|group| {
                group.route.region.range.contains(item.key())
                    && group.weight + item.weight() <= options.batch_bytes_max
                    && group.items.len() < options.batch_keys_max
            });
            if !fits {
                let route = self.route(&Position::At(item.key().clone())).await?;
                groups.push(Group { route, items: Vec::new(), weight: 0 });
            }
            let group = groups.last_mut().expect("pushed above");
            group.weight += item.weight();
            group.items.push(item.clone());
        }
        Ok(groups)
    }
}
