//! Mailboxes join the store's state machines.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

/// Where messages for one worker are sent. Cloning shares the mailbox.
pub struct Address<T>(Sender<T>);

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Address<T> {
    /// Delivers a message. Lost if the worker is gone, which happens only while the store stops.
    pub fn send(&self, message: T) {
        let _ = self.0.send(message);
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Inbox of one worker.
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    /// Taken off the queue by `wait`, not yet handed out.
    stash: Option<T>,
}

impl<T> Mailbox<T> {
    /// A mailbox and its address.
    pub fn new() -> (Address<T>, Self) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Address(sender), Self { receiver, stash: None })
    }

    /// The next message, if one waits.
    pub fn pop(&mut self) -> Option<T> {
        self.stash.take().or_else(|| self.receiver.try_recv().ok())
    }

    /// Blocks until a message waits or `timeout` is over. Threads only; a simulator never calls it.
    #[allow(clippy::disallowed_methods, reason = "the one place where a thread around a turn sleeps")]
    pub fn wait(&mut self, timeout: Duration) {
        if self.stash.is_none() {
            self.stash = self.receiver.recv_timeout(timeout).ok();
        }
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.stash.is_none() && self.receiver.is_empty()
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
    /// When the machine wants a turn even without messages.
    fn deadline(&self) -> crate::Time;
    /// Blocks until there may be something to do, at most `timeout`. Threads only.
    fn wait(&mut self, timeout: Duration);
}
