//! Mailboxes join the store's state machines.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

/// Wakes the thread that owns a mailbox, if it sleeps. The channel's own blocking receive spins and yields before it
/// sleeps, which costs more than it saves where workers outnumber cores.
///
/// Invariant: a sender that finds `asleep` unset is seen by the owner's next look at the queue.
#[derive(Default)]
struct Bell {
    asleep: AtomicBool,
    owner: OnceLock<Thread>,
}

impl Bell {
    fn ring(&self) {
        // Orders the message before the look at `asleep`, as `wait` orders `asleep` before its look at the queue.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::AcqRel)
            && let Some(owner) = self.owner.get()
        {
            owner.unpark();
        }
    }
}

/// Where messages for one worker are sent. Cloning shares the mailbox.
pub struct Address<T> {
    sender: Sender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> Address<T> {
    /// Delivers a message. Lost if the worker is gone, which happens only while the store stops.
    pub fn send(&self, message: T) {
        let _ = self.sender.send(message);
        self.bell.ring();
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }
}

/// Inbox of one worker.
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    bell: Arc<Bell>,
}

impl<T> Mailbox<T> {
    /// A mailbox and its address.
    pub fn new() -> (Address<T>, Self) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let bell = Arc::new(Bell::default());
        (Address { sender, bell: bell.clone() }, Self { receiver, bell })
    }

    /// The next message, if one waits.
    pub fn pop(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Blocks until a message waits or `timeout` is over, or for no reason, rarely. Always the same thread, and
    /// threads only; a simulator never calls it.
    #[allow(clippy::disallowed_methods, reason = "the one place where a thread around a turn sleeps")]
    pub fn wait(&mut self, timeout: Duration) {
        self.bell.owner.get_or_init(std::thread::current);
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() {
            std::thread::park_timeout(timeout);
        }
        self.bell.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

/// A state machine of the store: takes a bounded bite of its inbox and returns.
pub trait Turn: Send {
    /// For thread names and traces.
    fn name(&self) -> String;
    /// One bite at time `now`. Returns whether work is left that needs no further message.
    fn turn(&mut self, now: crate::Time) -> bool;
    /// Whether a message waits: a simulator decides by it who wants a turn.
    fn has_messages(&self) -> bool;
    /// How much the machine keeps for later: tasks that wait, requests that are not answered, streams that are open. Nothing
    /// while the store is at rest.
    fn held(&self) -> usize {
        0
    }
    /// When the machine wants a turn even without messages.
    fn deadline(&self) -> crate::Time;
    /// Blocks until there may be something to do, at most `timeout`. Threads only.
    fn wait(&mut self, timeout: Duration);
}
