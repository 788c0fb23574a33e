//! What an idle peer costs: memory and allocations, counted by the allocator.

// Counting allocations takes an allocator, whose trait is unsafe.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use flotilla_raft::{
    Config, Entry, HardState, Index, MemStorage, Message, MessageKind as Kind, PeerId, RawNode, Role, Term,
    Work,
};

thread_local! {
    /// Bytes in use and allocations made by this thread.
    static USED: Cell<(isize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize, allocations: usize) {
    // Gone while the thread ends.
    let _ = USED.try_with(|used| used.set((used.get().0 + bytes, used.get().1 + allocations)));
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), 0);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize, 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn used() -> (isize, usize) {
    USED.with(Cell::get)
}

fn config(id: u64) -> Config {
    Config { check_quorum: true, pre_vote: true, ..Config::new(PeerId(id)) }
}

fn storage() -> MemStorage {
    MemStorage::with_voters((1..=3).map(PeerId))
}

fn work(raw: &mut RawNode<MemStorage>) {
    while raw.has_ready() {
        let mut ready = raw.ready();
        raw.storage_mut().append(&mut ready.entries);
        if let Some(state) = ready.hard_state {
            raw.storage_mut().set_hard_state(state);
        }
        raw.advance();
        raw.recycle(ready);
    }
}

/// A follower that took part in an election and a few hundred entries, and went quiet.
fn used_follower() -> RawNode<MemStorage> {
    let mut raw = RawNode::new(&config(1), storage()).expect("valid");
    let leader = Message { from: PeerId(2), term: Term(1), ..Message::default() };
    raw.step(Message { kind: Kind::Vote, ..leader.clone() }).expect("taken");
    for index in 0..300 {
        let entry = Entry {
            index: Index(index + 1),
            term: Term(1),
            data: Bytes::from(vec![1; 256]),
            ..Entry::default()
        };
        let log_term = Term(u64::from(index > 0));
        let append = Message {
            kind: Kind::Append,
            index: Index(index),
            log_term,
            entries: vec![entry],
            ..leader.clone()
        };
        raw.step(Message { commit: Index(index), ..append }).expect("taken");
        if index % 50 == 49 {
            work(&mut raw);
        }
    }
    raw.step(Message { kind: Kind::Heartbeat, commit: Index(300), ..leader }).expect("taken");
    work(&mut raw);
    raw
}

#[test]
fn an_idle_follower_with_three_members_takes_at_most_a_kibibyte() {
    let inline = size_of::<RawNode<MemStorage>>() - size_of::<MemStorage>();
    let storage = storage();
    let before = used().0;
    let raw = RawNode::new(&config(1), storage).expect("valid");
    let heap = used().0 - before;
    drop(raw);
    println!("{} bytes: inline {inline}, heap {heap}", inline as isize + heap);
    assert!(inline as isize + heap <= 1024, "inline {inline}, heap {heap}");
}

#[test]
fn a_packed_follower_takes_less_than_a_hundred_bytes() {
    let before = used().0;
    let (packed, storage) = used_follower().pack();
    drop(storage);
    let heap = used().0 - before;
    assert!(size_of_val(&packed) as isize + heap < 100, "inline {}, heap {heap}", size_of_val(&packed));
}

#[test]
fn ticking_an_idle_group_allocates_nothing() {
    let mut raw = used_follower();
    let heartbeat = Message { kind: Kind::Heartbeat, from: PeerId(2), term: Term(1), ..Message::default() };
    raw.tick();
    let before = used().1;
    for _ in 0..8 {
        raw.tick();
        assert!(!raw.has_ready());
    }
    assert_eq!(used().1, before, "allocations by ticks");
    raw.step(heartbeat).expect("taken");
    work(&mut raw);
    assert_eq!((raw.role(), raw.commit()), (Role::Follower, Index(300)));
}

#[test]
fn a_node_that_went_quiet_keeps_no_buffers() {
    let (mut quiet, mut fresh) = (used_follower(), RawNode::new(&config(1), storage()).expect("valid"));
    for raw in [&mut quiet, &mut fresh] {
        raw.tick();
        raw.tick();
        *raw.storage_mut() = MemStorage::new();
    }
    let heap = |raw: RawNode<MemStorage>| {
        let before = used().0;
        drop(raw);
        before - used().0
    };
    let (quiet, fresh) = (heap(quiet), heap(fresh));
    assert!(quiet <= fresh, "{quiet} bytes after traffic, {fresh} before any");
}

#[test]
fn buffers_that_come_back_serve_the_next_readys_until_a_tick_passes_without_any() {
    let mut raw = used_follower();
    let mut last = 300;
    let mut buffers = |raw: &mut RawNode<MemStorage>| {
        for _ in 0..9 {
            let (term, data) = (Term(1), Bytes::from_static(b"data"));
            let entry = Entry { index: Index(last + 1), term, data, ..Entry::default() };
            raw.step(Message {
                kind: Kind::Append,
                from: PeerId(2),
                term,
                index: Index(last),
                log_term: term,
                entries: vec![entry],
                ..Message::default()
            })
            .expect("taken");
            last += 1;
        }
        let mut ready = raw.ready();
        let pointers = (ready.messages.as_ptr(), ready.entries.as_ptr());
        assert_eq!((ready.messages.len(), ready.entries.len()), (9, 9));
        raw.storage_mut().append(&mut ready.entries);
        raw.advance();
        raw.recycle(ready);
        pointers
    };
    let first = buffers(&mut raw);
    assert_eq!(buffers(&mut raw), first);
    raw.tick();
    assert_eq!(buffers(&mut raw), first, "traffic goes on");
    let before = used().0;
    raw.tick();
    raw.tick();
    assert!(before - used().0 >= (9 * (size_of::<Message>() + size_of::<Entry>())) as isize);
}

/// Does work as threads of storage and state machine would, and gives back the messages sent.
fn work_in_values(raw: &mut RawNode<MemStorage>, work: &mut Work, sent: &mut Vec<Message>) {
    while raw.has_ready() {
        raw.take_work(work);
        let storage = raw.storage_mut();
        storage.append(&mut work.ready.entries);
        work.ready.entries.clear();
        if let Some(state) = work.ready.hard_state {
            storage.set_hard_state(state);
        }
        work.ready.committed_entries.clear();
        work.ready.read_states.clear();
        sent.append(&mut work.ready.messages);
        sent.append(&mut work.answers);
        if let Some(storing) = work.storing.take() {
            raw.on_stored(storing);
        }
        if let Some(applying) = work.applying.take() {
            raw.on_applied(applying);
        }
    }
}

#[test]
fn work_taken_in_values_allocates_only_the_entries_of_appends() {
    let config = |id| Config { async_storage_writes: true, skip_commit_broadcast: true, ..config(id) };
    let node = |id| RawNode::new(&config(id), storage()).expect("valid");
    let (mut leader, mut follower) = (node(1), node(2));
    let (mut work, mut sent, mut answers) = (Work::default(), Vec::new(), Vec::new());
    let mut counts = Vec::new();
    leader.campaign().expect("never refused");
    let data = Bytes::from(vec![1; 256]);
    for round in 0..300 {
        if round > 20 {
            leader.propose(data.clone()).expect("leads");
        }
        // The storage's own list grows too: now and then, by doubling.
        let before = used().1;
        work_in_values(&mut leader, &mut work, &mut sent);
        let of_leader = used().1 - before;
        for message in sent.drain(..).filter(|message| message.to == PeerId(2)) {
            follower.step(message).expect("taken");
        }
        let before = used().1;
        work_in_values(&mut follower, &mut work, &mut answers);
        let of_follower = used().1 - before;
        for answer in answers.drain(..) {
            leader.step(answer).expect("taken");
        }
        counts.push((of_leader, of_follower));
    }
    work_in_values(&mut leader, &mut work, &mut sent);
    assert_eq!((leader.role(), leader.applied()), (Role::Leader, leader.last_index()));
    let usual = counts.iter().skip(50).filter(|(leader, follower)| *leader <= 2 && *follower == 0).count();
    assert!(usual >= 245, "one list of entries for each of two followers: {counts:?}");
}

#[test]
fn proposals_are_not_copied_between_propose_and_ready() {
    let only = MemStorage::with_voters([PeerId(1)]);
    let mut raw = RawNode::new(&Config::new(PeerId(1)), only).expect("valid");
    raw.campaign().expect("never refused");
    work(&mut raw);
    let data = Bytes::from(vec![7; 1 << 20]);
    let before = used().0;
    raw.propose(data.clone()).expect("leader");
    let mut ready = raw.ready();
    assert_eq!(ready.entries[0].data.as_ptr(), data.as_ptr());
    assert!(used().0 - before < 4096, "{} bytes for a proposal of a mebibyte", used().0 - before);
    raw.storage_mut().append(&mut ready.entries);
    raw.storage_mut().set_hard_state(HardState::default());
    raw.advance();
}
