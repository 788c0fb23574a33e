//! Seeds that found something on the way, with what they found. `cargo nextest run -p flotilla-tests --test sim` runs the
//! short ones, `sim --regressions` all of them.
//!
//! What a seed means changes with every new draw of the simulator, so that a seed need not lead to its old finding any
//! more. They are run all the same, for they are cheap; those from before [`super::extras`] without its draws.

use super::run::{Options, Outcome, run_seed};

/// A seed that found something.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds with faults; 0 = as the seed draws.
    pub seconds: u64,
    /// Found before the draws of [`super::extras`], and run without them.
    pub early: bool,
    /// What it found.
    pub found: &'static str,
}

/// As the seed draws.
const SHORT: u64 = 0;
/// Half a minute.
const HALF: u64 = 30;
/// Ten minutes.
const LONG: u64 = 600;

const fn early(seed: u64, seconds: u64, found: &'static str) -> Regression {
    Regression { seed, seconds, early: true, found }
}

const fn now(seed: u64, seconds: u64, found: &'static str) -> Regression {
    Regression { seed, seconds, early: false, found }
}

const WAITED: &str = "a peer whose region removed it before it had any data was never told so";
const REUSED: &str =
    "two machines at one address, the simulator's own mistake; placement drained the first as it should";
const PROMOTED: &str = "a learner that had left was promoted by the simulator, with a used-up id";
const LOST: &str =
    "the simulator lost a machine of an old membership while the new one was not durable everywhere";
const MEMBERSHIP: &str =
    "a membership change applied before a snapshot was installed met a core that had it already: panic";
const EXPECTING: &str =
    "a region that expects a merge sent no snapshot, and needed the receiver for a quorum";
const CHILD: &str =
    "a child took term and vote of its early peer over without logging them: a crash forgot the term";
const CALLERS: &str = "a peer that was removed while its last entries were applied dropped callers";
const TAKEN: &str =
    "a region that expected a source which was already final for another target waited for ever";
const MISSED: &str =
    "a replica that missed its own removal, and then the merge of its region, stayed for ever";
const SLOTS: &str =
    "more than sixteen regions with a replica on a lost store used up their leader's slots for sending";
const MISADDRESSED: &str = "an answer to a removed reader went to the store that had passed its question on, and made that store \
     destroy its own voter";
const ORPHANED: &str =
    "a snapshot came before a committed split was applied anew: the child's log waited for its data for ever";
const STORM: &str = "the simulator's late letters were answered by tombstones that called for more of them";
const REFUSING: &str = "the simulator's disk went on failing after a process had failed to start on it";
const LISTED: &str =
    "a peer that is being removed told of itself what the snapshot on its disk had already overtaken";
const SIBLINGS: &str =
    "after a snapshot clients were told of a region's siblings from before: their routes went back";
const ABANDONED: &str = "a merged region whose target's peer went away counted as damaged, on a sound disk";
const SHRUNK: &str =
    "a snapshot of a region that was cut after its header wiped what another region had here by then";
const AHEAD: &str =
    "one worker's slow disk put the simulator's clock ahead for all workers of its store: two leases";
const EARLY: &str = "the simulator let values expire by the microsecond, stores do by the millisecond";
const CHAIN: &str = "a merged region that missed its merge waited for a target that had become part of another region since, \
     and kept that one's keys from it";
const EMPTY: &str = "a replica that was taking in its first snapshot knew no members, and told a living voter that it was none";
const HIDDEN: &str = "a peer without data was removed while a split gave it some: its tombstone hid a living region, whose \
     range was given away";
const TWICE: &str = "a region was asked, on old news, to take in a neighbour that was part of it already, and waited for it for ever";
const TOLD: &str =
    "a peer without data, told that its region had become part of another one, stayed for ever";
const UNDONE: &str = "balance and the moves that align replicas for a merge undid each other for ever";
const SWALLOWED: &str =
    "the sender of a snapshot met a damaged record, and nobody took the region out of service";
const UNSENT: &str = "the answer of a child's early peer to a vote was dropped when the split took its place";
const UNHEARD: &str = "a vote that came between a split and the birth of the child was not answered";
const LONG_GONE: &str =
    "the simulator took a region that had become part of another one for the parent of what that one split";
const SOON: &str =
    "what a merge had made counted as just split, and its small neighbours were moved away from it and back";
const FLICKERING: &str =
    "a move's own writes made its region hot: balance undid what was done for a merge, for ever";
const DOOMED: &str = "the simulator's operator gave the vote of a sound disk to a damaged one";
const LEFT: &str = "the simulator drained a store with too few others left, one of which was being removed";
const CHARGED: &str = "what the simulator's checkers read on a slow disk was charged to the next turn on it";
const AGAIN: &str =
    "a region was sent to a damaged disk again and again, and its machine could never be taken away";
const UNTRIED: &str =
    "a learner that had never answered counted as caught up, for its log was short, and as alive";
const OVERTAKEN: &str = "a snapshot took a target past a merge and past the split that gave the source's range away: the source waited \
     to be taken over for ever, and kept the child out";
const LATE: &str = "an old report that came late made placement forget a leader";
const ENDING: &str = "the simulator ended a process before it had carried out what that did in its last turn";
const GRANDCHILD: &str = "a child waited for its parent to apply its split again, the parent had become part of that child since, and \
     the child was taken for an orphan";
const UNANSWERED: &str =
    "a command carried out by a region that was found damaged meanwhile was never answered";
const NEWER: &str = "a restarted store took one that its old address book did not have for removed, and never released a follower there";
const HOLE: &str = "a power cut lost the commit index of one change of membership, and kept the next change";
const HASTY: &str = "a leader that woke because no store supported it any more gave up at once, unheard";
const FORGOTTEN: &str = "after a crash a follower had a change of membership in its log and not that the one before it was committed: \
     it was elected by members of old, and lacked a committed entry";

/// Every one of them.
pub const REGRESSIONS: &[Regression] = &[
    early(1350, SHORT, WAITED),
    early(1909, SHORT, REUSED),
    early(23, SHORT, PROMOTED),
    early(65, SHORT, LOST),
    early(330, SHORT, MISSED),
    early(1623, SHORT, MISSED),
    early(556, SHORT, SLOTS),
    early(200_131, LONG, MEMBERSHIP),
    early(200_156, LONG, MEMBERSHIP),
    early(200_193, LONG, MEMBERSHIP),
    early(200_017, LONG, EXPECTING),
    early(300_123, LONG, EXPECTING),
    early(300_005, LONG, CHILD),
    early(200_060, LONG, CALLERS),
    early(300_047, LONG, CALLERS),
    early(400_021, LONG, TAKEN),
    early(2_000_117, LONG, MISADDRESSED),
    early(2_000_199, LONG, ORPHANED),
    early(2_000_070, LONG, STORM),
    early(2_000_494, LONG, REFUSING),
    early(2_001_067, LONG, LISTED),
    early(2_001_209, LONG, SIBLINGS),
    early(2_001_241, LONG, ABANDONED),
    early(2_001_454, LONG, SHRUNK),
    early(2_001_582, LONG, AHEAD),
    early(2_002_197, LONG, EARLY),
    early(2_003_022, LONG, CHAIN),
    early(2_003_613, LONG, EMPTY),
    now(2_004_728, LONG, TWICE),
    now(2366, SHORT, HIDDEN),
    now(2_005_496, LONG, HIDDEN),
    now(5302, SHORT, TOLD),
    now(278, SHORT, UNDONE),
    now(3_200_001, LONG, UNDONE),
    now(473, SHORT, SWALLOWED),
    now(910, SHORT, UNSENT),
    now(710, SHORT, UNHEARD),
    now(1167, SHORT, UNHEARD),
    now(2_006_222, LONG, LONG_GONE),
    now(1_006_387, HALF, SOON),
    now(1_013_133, HALF, LEFT),
    now(1_015_854, HALF, DOOMED),
    now(1_016_444, HALF, FLICKERING),
    now(1_016_750, HALF, FLICKERING),
    now(2_007_347, LONG, CHARGED),
    now(1_022_060, HALF, AGAIN),
    now(1_070_167, HALF, UNTRIED),
    now(1_072_621, HALF, OVERTAKEN),
    now(1_024_032, HALF, LATE),
    now(1_081_170, HALF, ENDING),
    now(1_035_801, HALF, GRANDCHILD),
    now(1_062_862, HALF, FORGOTTEN),
    now(1_121_671, HALF, HASTY),
    now(1_133_176, HALF, UNANSWERED),
    now(2_594, SHORT, NEWER),
    now(2_020_146, LONG, HOLE),
];

impl Regression {
    /// Whether it takes no longer than any other short seed.
    pub fn is_short(&self) -> bool {
        self.seconds == SHORT
    }

    /// Runs the seed as it was run then.
    pub fn run(&self) -> Outcome {
        run_seed(self.seed, Options { early: self.early, seconds: self.seconds, ..Options::default() })
    }

    /// The flags that replay it.
    pub fn flags(&self) -> String {
        let early = if self.early { " --early" } else { "" };
        if self.is_short() {
            format!("--seed {}{early}", self.seed)
        } else {
            format!("--seed {} --seconds {}{early}", self.seed, self.seconds)
        }
    }
}
