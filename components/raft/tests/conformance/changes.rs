//! Commands of the `confchange` files.

use flotilla_raft::{Changer, ConfChangeError, ConfChangeKind, ConfChangeSingle, Index, PeerId, Tracker};

use crate::{
    datadriven::{Case, Handler},
    format,
};

/// One configuration, changed command by command.
pub struct Changes {
    tracker: Tracker,
    last_index: Index,
}

impl Default for Changes {
    fn default() -> Self {
        Self { tracker: Tracker::new(10, 0), last_index: Index::ZERO }
    }
}

/// Reads `v1 l2 r3 u4`.
pub fn parse_changes(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    let one = |token: &str| {
        let mut chars = token.chars();
        let kind = match chars.next() {
            Some('v') => ConfChangeKind::AddVoter,
            Some('l') => ConfChangeKind::AddLearner,
            Some('r') => ConfChangeKind::RemovePeer,
            Some('u') => ConfChangeKind::Update,
            _ => return Err(format!("unknown token {token}")),
        };
        let id = chars.as_str().parse().map_err(|_| format!("unknown token {token}"))?;
        Ok(ConfChangeSingle { kind, peer: PeerId(id) })
    };
    text.split_whitespace().map(one).collect()
}

impl Changes {
    fn change(&mut self, case: &Case) -> Result<String, String> {
        let changer = Changer { tracker: &self.tracker, last_index: self.last_index };
        let changes = parse_changes(&case.input)?;
        let changed = match case.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => changer.enter_joint(case.value("autoleave")?.unwrap_or(false), &changes),
            "leave-joint" if changes.is_empty() => changer.leave_joint(),
            "leave-joint" => return Err("this command takes no input".to_owned()),
            _ => return Err("unknown command".to_owned()),
        };
        let (config, progress) = changed.map_err(|error: ConfChangeError| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        self.tracker.config = config;
        self.tracker.progress = progress;
        let lines = format::progress_lines(self.tracker.progress.iter());
        Ok(format!("{}\n{lines}", format::configuration(&self.tracker.config)))
    }
}

impl Handler for Changes {
    fn run(&mut self, case: &Case) -> String {
        let result = self.change(case);
        self.last_index = self.last_index.next();
        result.unwrap_or_else(|error| error + "\n")
    }
}
