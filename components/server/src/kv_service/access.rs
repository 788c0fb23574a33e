//! How requests reach a region: writes through the log, reads under the lease or after asking a quorum.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_kv::{Command, Reply, Value, View, get_latest};
use flotilla_raftstore::{ReadGrant, RegionContext, RegionLoad, RequestError, Store};
use flotilla_region::{KeyRange, Region};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::door::{BUSY_WAIT, Door};
use super::failure::Failure;
use super::throttle::Throttle;
use crate::threads::thread_cpu_us;

/// A busy region is asked again so often before the client is told.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Of so many single reads the processor time of one is measured, and stands for all.
const TIMED_OF: u64 = 16;

/// One store's regions, for requests.
pub struct Access {
    store: Store,
    writes: Door,
    reads: Door,
    throttle: Arc<Throttle>,
}

impl Access {
    /// To the regions of `store`; reads that are not of single keys may hold so many bytes.
    pub fn new(store: Store, read_bytes_max: u64) -> Self {
        let writes = Door::new(store.config().pending_bytes_max);
        Self { store, writes, reads: Door::new(read_bytes_max), throttle: Arc::default() }
    }

    /// What writes wait for besides room in memory.
    pub fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// Where reads wait that may find much.
    pub fn reads(&self) -> &Door {
        &self.reads
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Wall clock of the reader, for what has expired. Taken before the view that is read: a value that expires between
    /// the two may have been renewed since, and then its key was never absent.
    pub fn now_ms(&self) -> u64 {
        self.store.clock().unix_ms()
    }

    /// Replicates a command and waits for what it did.
    pub async fn write(&self, context: RegionContext, command: &Command<'_>) -> Result<Reply, Failure> {
        let command = command.encode();
        let reply = self.replicate(context, command).await?;
        match Reply::decode(reply) {
            Some(Reply::Outside(key, range)) => {
                Err(RequestError::KeyNotInRegion { key, region: context.region, range }.into())
            }
            Some(reply) => Ok(reply),
            None => Err(RequestError::Undetermined.into()),
        }
    }

    async fn replicate(&self, context: RegionContext, command: Bytes) -> Result<Bytes, RequestError> {
        let bytes = command.len() as u64;
        self.throttle.enter(bytes).await?;
        let _place = self.writes.enter(bytes).await?;
        let give_up = Instant::now() + BUSY_WAIT;
        loop {
            let (tell, told) = oneshot::channel();
            // A caller that went away needs no answer.
            self.store.write(context, command.clone(), Box::new(move |result| drop(tell.send(result))));
            match told.await.unwrap_or(Err(RequestError::Undetermined)) {
                Err(RequestError::Busy) if Instant::now() < give_up => tokio::time::sleep(BUSY_PAUSE).await,
                result => return result,
            }
        }
    }

    /// One value, as of `now_ms`. Under a lease the disk is asked directly, without a snapshot.
    pub async fn get(&self, read: Read, key: &[u8], now_ms: u64) -> Result<Option<Value>, Failure> {
        if !read.replica
            && let Some(local) = self.store.begin_local_read(&read.context)
        {
            check_inside(read.context, &local.region().range, key)?;
            let found = counted(local.load(), key, || get_latest(&**self.store.engine(), key, now_ms));
            if local.still_holds(&**self.store.clock()) {
                return self.judge(local.region(), found.map_err(Failure::from));
            }
        }
        let grant = self.ask(read).await?;
        check_inside(read.context, &grant.region.range, key)?;
        let view = View::new(&*grant.snapshot, &grant.region, now_ms);
        let found = counted(&grant.load, key, || view.get(key));
        self.judge(&grant.region, found.map_err(Failure::from))
    }

    /// A read that met damage takes the region out of service on this store; the client asks again, and elsewhere.
    pub fn judge<T>(&self, region: &Region, read: Result<T, Failure>) -> Result<T, Failure> {
        match read {
            Err(Failure::Damaged(why)) => {
                self.store.report_damage(region, &why);
                Err(RequestError::RegionNotFound(region.id).into())
            }
            read => read,
        }
    }

    /// A view of a region that holds every write acknowledged before the call, and the time to read it for.
    pub async fn grant(&self, read: Read) -> Result<(ReadGrant, u64), RequestError> {
        let now_ms = self.now_ms();
        if !read.replica
            && let Some(local) = self.store.begin_local_read(&read.context)
        {
            let snapshot = self.store.engine().snapshot();
            if local.still_holds(&**self.store.clock()) {
                let (region, load) = (Arc::clone(local.region()), Arc::clone(local.load()));
                return Ok((ReadGrant { region, snapshot, load }, now_ms));
            }
        }
        Ok((self.ask(read).await?, now_ms))
    }

    async fn ask(&self, read: Read) -> Result<ReadGrant, RequestError> {
        let (tell, told) = oneshot::channel();
        self.store.read(read.context, read.replica, Box::new(move |result| drop(tell.send(result))));
        told.await.unwrap_or(Err(RequestError::ReadNotReady(read.context.region)))
    }
}

/// Reads one key and tells its region's load.
fn counted<E>(
    load: &Arc<RegionLoad>,
    key: &[u8],
    read: impl FnOnce() -> Result<Option<Value>, E>,
) -> Result<Option<Value>, E> {
    let begun = load.is_nth_read(TIMED_OF).then(thread_cpu_us);
    let found = read();
    if let Some(begun) = begun {
        load.add_cpu_us(TIMED_OF * (thread_cpu_us() - begun));
    }
    let value_bytes = found.as_ref().ok().and_then(|found| found.as_ref()).map_or(0, |v| v.bytes.len());
    load.read_key(key, (key.len() + value_bytes) as u64);
    found
}

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Which region, as the client knows it.
    pub context: RegionContext,
    /// Whether a follower may answer.
    pub replica: bool,
}

/// Refuses a key that another region holds.
pub fn check_inside(context: RegionContext, range: &KeyRange, key: &[u8]) -> Result<(), RequestError> {
    if range.contains(key) {
        return Ok(());
    }
    let key = Bytes::copy_from_slice(key);
    Err(RequestError::KeyNotInRegion { key, region: context.region, range: range.clone() })
}
