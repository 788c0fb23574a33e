//! Every value of a source compared with the cluster's, byte for byte.

use bytes::Bytes;
use flotilla_router::Client;

use super::load::{Items, LoadFailure, LoadOptions, Progress, drive};

/// What a comparison found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// The final figures; `done` counts the entries compared.
    pub progress: Progress,
    /// Entries that agree.
    pub matched: u64,
    /// Keys that the cluster does not hold.
    pub missing: Vec<Bytes>,
    /// Keys whose value differs.
    pub different: Vec<Bytes>,
    /// Entries that could not be read here or there.
    pub unread: Vec<LoadFailure>,
}

impl VerifyReport {
    /// Whether everything was compared and agrees.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.different.is_empty() && self.unread.is_empty()
    }
}

enum Verdict {
    Matches(u64),
    Missing(Bytes),
    Differs(Bytes),
}

/// Reads every item's value from the cluster and compares it with the source's. A stream that breaks off ends the
/// comparison where it broke.
pub async fn verify(
    client: &Client,
    mut items: Items,
    options: &LoadOptions,
    mut on_progress: impl FnMut(&Progress),
) -> VerifyReport {
    let mut report = VerifyReport::default();
    // A difference must not end the comparison: all are wanted.
    let options = LoadOptions { failures_max: usize::MAX, ..*options };
    let compare = |item: super::load::Item| {
        let client = client.clone();
        async move {
            let key = item.key().clone();
            let (expected, _) = item.read().await?;
            Ok(match client.get(key.clone()).await? {
                None => Verdict::Missing(key),
                Some(found) if found == expected => Verdict::Matches((key.len() + found.len()) as u64),
                Some(_) => Verdict::Differs(key),
            })
        }
    };
    let drive = drive(&mut items, &options, compare, |progress, _, outcome| {
        match outcome {
            Ok(Verdict::Matches(bytes)) => {
                report.matched += 1;
                progress.done_bytes += bytes;
            }
            Ok(Verdict::Missing(key)) => report.missing.push(key),
            Ok(Verdict::Differs(key)) => report.different.push(key),
            Err(failure) => report.unread.push(failure),
        }
        on_progress(progress);
    });
    report.progress = drive.await.0;
    report
}
