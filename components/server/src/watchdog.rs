//! A disk that hangs: a store that can neither log nor answer is dead to its regions, and worse than dead, for it may go on
//! telling others that it lives. The process ends, and the others take over (CockroachDB: `storage.max_sync_duration`).

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use flotilla_raftstore::Time;
use rustix::process::{Signal, getpid, kill_process};

use crate::threads::EXIT_FATAL;

/// The worker whose turns are writes and syncs of the log.
const LOG_WRITER: &str = "log-writer";
/// Pause between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time that an orderly end may take, which may want the disk, too.
const END_MAX: Duration = Duration::from_secs(1);

/// What can be seen of a worker from outside.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Beats>);

#[derive(Default)]
struct Beats {
    /// When its present turn began, in microseconds of the clock; 0 = it waits.
    begun_us: AtomicU64,
    /// What its turns took that are over.
    busy_us: AtomicU64,
}

impl Pulse {
    /// A turn begins.
    pub fn begin(&self, now: Time) {
        self.0.begun_us.store(now.0.max(1), Ordering::Relaxed);
    }

    /// The turn is over.
    pub fn end(&self, now: Time) {
        let begun = self.0.begun_us.swap(0, Ordering::Relaxed);
        self.0.busy_us.fetch_add(now.0.saturating_sub(begun), Ordering::Relaxed);
    }

    /// Microseconds that its turns took that are over.
    pub fn busy_us(&self) -> u64 {
        self.0.busy_us.load(Ordering::Relaxed)
    }
}

/// A worker that must make progress.
struct Watched {
    name: String,
    pulse: Pulse,
    /// The turn that the last look found, and in how many looks.
    turn: u64,
    looks: u128,
}

/// Workers that must make progress.
pub struct Watchdog {
    watched: Vec<Watched>,
    limit: Duration,
}

impl Watchdog {
    /// Turns may take so long.
    pub fn new(limit: Duration) -> Self {
        Self { watched: Vec::new(), limit }
    }

    /// Watches a worker. Those that compact, take snapshots or install them may be busy for as long as it takes; the log
    /// writer and those who own the regions may not.
    pub fn watch(&mut self, name: String) -> Pulse {
        let pulse = Pulse::default();
        if name == LOG_WRITER || name == "liveness" || name.starts_with("raft-") {
            self.watched.push(Watched { name, pulse: pulse.clone(), turn: 0, looks: 0 });
        }
        pulse
    }

    /// The log writer's pulse.
    pub fn log_writer(&self) -> Pulse {
        let log = self.watched.iter().find(|worker| worker.name == LOG_WRITER);
        log.map(|worker| worker.pulse.clone()).unwrap_or_default()
    }

    /// One look. Returns a worker that has been in one turn for too long. Looks are counted, not time: a process that was
    /// paused has not hung.
    fn look(&mut self) -> Option<&str> {
        let most = self.limit.as_millis() / LOOK_EVERY.as_millis();
        for worker in &mut self.watched {
            let turn = worker.pulse.0.begun_us.load(Ordering::Relaxed);
            worker.looks = if turn > 0 && turn == worker.turn { worker.looks + 1 } else { 0 };
            worker.turn = turn;
        }
        self.watched.iter().find(|worker| worker.looks > most).map(|worker| &worker.name[..])
    }

    /// Looks, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn run(mut self) -> io::Result<()> {
        let look = move || {
            let hung = loop {
                thread::sleep(LOOK_EVERY);
                if let Some(hung) = self.look() {
                    break hung.to_string();
                }
            };
            // Standard error may lie on the disk that hangs.
            let limit_s = self.limit.as_secs();
            let _ = thread::Builder::new().spawn(move || {
                eprintln!(
                    "flotilla: the store stops: {hung} has done nothing for {limit_s} s: does the disk hang?"
                );
                process::exit(EXIT_FATAL);
            });
            thread::sleep(END_MAX);
            let _ = kill_process(getpid(), Signal::KILL);
        };
        thread::Builder::new().name("watchdog".into()).spawn(look).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_takes_too_long_is_noticed_and_a_worker_that_waits_is_not() {
        let mut dog = Watchdog::new(LOOK_EVERY * 4);
        let pulses = ["log-writer", "raft-1", "background"].map(|name| dog.watch(name.into()));
        let mut looks = |times: usize| (0..times).map(|_| dog.look().map(str::to_string)).collect::<Vec<_>>();
        let [log, raft, background] = &pulses;
        background.begin(Time(1));
        raft.begin(Time(2));
        assert!(looks(4).iter().all(Option::is_none));
        raft.end(Time(12));
        assert_eq!((raft.busy_us(), log.busy_us()), (10, 0));
        assert!(looks(9).iter().all(Option::is_none));
        log.begin(Time(3));
        let found = looks(6);
        assert_eq!(found[4..], [None, Some("log-writer".to_string())]);
        log.begin(Time(4));
        raft.begin(Time(5));
        assert!(looks(5).iter().all(Option::is_none), "each turn counts anew");
        log.end(Time(9));
        assert_eq!(looks(1), [Some("raft-1".to_string())]);
    }
}
