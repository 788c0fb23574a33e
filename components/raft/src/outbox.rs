//! Messages waiting for the next Ready.

use crate::message::Message;

/// Messages in the order they were made.
///
/// The buffer leaves with each Ready, so that nothing is copied and an idle node holds none. One that comes back is
/// used again; without that the next one starts with room for as many messages as the last one had.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    messages: Vec<Message>,
    last_count: u32,
}

impl Queue {
    /// Adds an empty message, to be filled in where it lies: messages are large, and moving them is most of what
    /// sending one costs.
    #[inline]
    pub fn add(&mut self) -> &mut Message {
        let count = self.messages.len();
        if count == self.messages.capacity() {
            self.grow();
        }
        self.messages.resize_with(count + 1, Message::default);
        &mut self.messages[count]
    }

    #[cold]
    fn grow(&mut self) {
        if self.messages.capacity() == 0 {
            self.messages.reserve_exact((self.last_count as usize).max(2));
        } else {
            self.messages.reserve(1);
        }
    }

    /// Takes all messages.
    pub fn take(&mut self) -> Vec<Message> {
        self.last_count = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        std::mem::take(&mut self.messages)
    }

    /// Takes all messages into an empty list, whose buffer is used for those to come.
    pub fn swap(&mut self, into: &mut Vec<Message>) {
        debug_assert!(into.is_empty(), "the list is given without messages");
        if !self.messages.is_empty() {
            std::mem::swap(&mut self.messages, into);
        }
    }

    /// Takes over an empty buffer for messages to come, if it is larger than the own one.
    pub fn reuse(&mut self, buffer: Vec<Message>) {
        debug_assert!(buffer.is_empty(), "a buffer comes back without messages");
        if self.messages.is_empty() && self.messages.capacity() < buffer.capacity() {
            self.messages = buffer;
        }
    }

    /// Gives the buffer back if it is empty.
    pub fn release_if_empty(&mut self) {
        if self.messages.is_empty() {
            self.messages = Vec::new();
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The last message.
    pub fn last_mut(&mut self) -> Option<&mut Message> {
        self.messages.last_mut()
    }
}

/// Messages waiting for the next Ready.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// May leave at once.
    pub now: Queue,
    /// May leave once everything that is unstable now is durable; may be addressed to this node itself.
    pub after_append: Queue,
    /// Whether some peer has an append due (`batch_append`).
    pub appends_due: bool,
    /// Whether entries were held back by a meter since the owner asked.
    pub has_held_back: bool,
}
