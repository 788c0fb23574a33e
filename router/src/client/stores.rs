//! Addresses of stores and the connection to each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::tikvpb::tikv_client::TikvClient;
use flotilla_region::StoreId;
use parking_lot::Mutex;
use tonic::transport::Channel;

use super::call::Failure;
use super::endpoints::connect;
use super::placement::Placement;
use crate::retry::FailureKind;

/// A page of a scan may be this large: it holds at least one pair, and how many more is only estimated.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Stores {
    stores: Mutex<BTreeMap<StoreId, Arc<Store>>>,
    connect_timeout: Duration,
}

/// One store; callers who need its connection at once wait for the one that opens it.
#[derive(Debug, Default)]
struct Store {
    link: tokio::sync::Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    address: Option<String>,
    channel: Option<Channel>,
    /// Counts the connections, so that the failure of an old one does not close its successor.
    generation: u64,
}

/// A connection to a store.
pub(super) struct Connection {
    pub(super) client: TikvClient<Channel>,
    generation: u64,
}

impl Stores {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self { stores: Mutex::new(BTreeMap::new()), connect_timeout }
    }

    fn store(&self, id: StoreId) -> Arc<Store> {
        self.stores.lock().entry(id).or_default().clone()
    }

    /// The connection to a store, opened if there is none.
    pub(super) async fn connection(&self, id: StoreId, placement: &Placement) -> Result<Connection, Failure> {
        let store = self.store(id);
        let mut link = store.link.lock().await;
        if link.channel.is_none() {
            let address = match link.address.clone() {
                Some(address) => address,
                None => {
                    let address = placement.store_address(id).await?;
                    address.ok_or(Failure::of(FailureKind::RouteUnknown))?
                }
            };
            // A store may come back at another address: after a failure placement is asked again.
            link.address = None;
            let channel = connect(&address, self.connect_timeout).await;
            link.channel = Some(channel.ok_or(Failure::of(FailureKind::Unreachable))?);
            link.address = Some(address);
            link.generation += 1;
        }
        let channel = link.channel.clone().expect("opened above");
        let client = TikvClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        Ok(Connection { client, generation: link.generation })
    }

    /// `connection` failed: the next caller opens a new one.
    pub(super) async fn disconnect(&self, id: StoreId, connection: &Connection) {
        let store = self.store(id);
        let mut link = store.link.lock().await;
        if link.generation == connection.generation {
            link.channel = None;
        }
    }

    /// Another store answers at the address known.
    pub(super) fn forget(&self, id: StoreId) {
        self.stores.lock().remove(&id);
    }
}
