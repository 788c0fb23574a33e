//! Heap bytes, counted by the allocator.

// Counting allocations takes an allocator, whose trait is unsafe.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::core::{Core, Group, Options, Wire};

/// Counts only while asked to, so that it costs the other measurements nothing but a branch.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static FREED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if IS_COUNTING.load(Relaxed) {
            FREED.fetch_add(layout.size(), Relaxed);
        }
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of one peer, its storage's aside: the node itself and what it frees when it is dropped.
fn peer_bytes<C: Core>(node: C::Node) -> usize {
    FREED.store(0, Relaxed);
    IS_COUNTING.store(true, Relaxed);
    C::drop_without_storage(node);
    IS_COUNTING.store(false, Relaxed);
    C::inline_bytes() + FREED.load(Relaxed)
}

/// Bytes of a peer that never heard of anybody.
pub fn new_peer<C: Core>(options: Options) -> usize {
    peer_bytes::<C>(C::node(2, options))
}

/// Bytes of a leader and of a follower that replicated some hundred entries and went quiet for twenty ticks.
pub fn quiet_peers<C: Core>(options: Options) -> (usize, usize) {
    let mut wire = Wire::default();
    let mut group = Group::<C>::new(options, &mut wire);
    for _ in 0..300 {
        C::propose(&mut group.nodes[0], &[7; 256]);
        group.settle(&mut wire);
    }
    for _ in 0..20 {
        group.tick(&mut wire);
    }
    let [leader, follower, _] = group.nodes;
    (peer_bytes::<C>(leader), peer_bytes::<C>(follower))
}
