//! Where turns become threads, and time becomes the system's: the one place that reads clocks for a store.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flotilla_raftstore::{Clock, FatalHook, Time, Turn, Workers};
use rustix::time::{ClockId, clock_gettime};

use crate::memory::Rest;
use crate::watchdog::{Pulse, Watchdog};

/// Exit status of a store that met an error after which nothing may be acknowledged.
pub const EXIT_FATAL: i32 = 70;

/// A thread looks at its deadline at least so often.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The system's clocks. The monotonic one counts while the machine sleeps, so a lease does not survive that.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(micros(ClockId::Boottime))
    }

    fn unix_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
    }
}

/// Processor time that the calling thread has used, in microseconds.
pub fn thread_cpu_us() -> u64 {
    micros(ClockId::ThreadCPUTime)
}

/// Processor time that the process has used, in microseconds.
pub fn process_cpu_us() -> u64 {
    micros(ClockId::ProcessCPUTime)
}

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Random bytes of the operating system.
///
/// # Errors
/// The system has none, which happens early in a boot only.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == N { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Ends the process at the first error that a store cannot survive, before anything else is acknowledged.
pub fn fatal_hook() -> FatalHook {
    Arc::new(|error| {
        eprintln!("flotilla: the store stops: {error}");
        process::exit(EXIT_FATAL);
    })
}

/// Runs every turn on a thread of its own, until the process ends: also when one of them hangs for `hang_limit`; 0 =
/// however long. Returns the log writer's pulse.
///
/// # Errors
/// The system gives no more threads.
pub fn run_workers(workers: Workers, clock: Arc<dyn Clock>, hang_limit: Duration) -> io::Result<Pulse> {
    let mut watchdog = Watchdog::new(hang_limit);
    for turn in workers.turns {
        let (clock, pulse) = (clock.clone(), watchdog.watch(turn.name()));
        thread::Builder::new().name(turn.name()).spawn(move || run(turn, &*clock, &pulse))?;
    }
    let log = watchdog.log_writer();
    if !hang_limit.is_zero() {
        watchdog.run()?;
    }
    Ok(log)
}

fn run(mut turn: Box<dyn Turn>, clock: &dyn Clock, pulse: &Pulse) {
    let _guard = ExitOnPanic;
    let mut rest = Rest::default();
    loop {
        let now = clock.now();
        pulse.begin(now);
        let has_work = turn.turn(now);
        let now = clock.now();
        pulse.end(now);
        if !has_work {
            rest.look(now, pulse.busy_us());
            turn.wait(now.until(turn.deadline()).min(WAIT_MAX));
        }
    }
}

/// A worker that panicked owned regions in a state that nobody knows: the process must not go on without it.
struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(EXIT_FATAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards_and_random_bytes_differ() {
        let clock = SystemClock;
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first && first.0 > 0);
        assert!(clock.unix_ms() > 1_600_000_000_000);
        assert_ne!(random_bytes::<16>().expect("random"), random_bytes::<16>().expect("random"));
    }
}
