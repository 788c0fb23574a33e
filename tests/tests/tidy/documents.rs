//! Rules on README.md and ARCHITECTURE.md: what they name, exists.

/// First parts of the paths that a document may name in code quotes.
const TOP_LEVEL: [&str; 8] =
    ["components/", "proto/", "raftstore/", "router/", "tests/", "bench/", ".ci/", ".config/"];

/// Relative files and folders that a document names: targets of links, and paths in code quotes.
pub fn named_files(text: &str) -> Vec<String> {
    let mut named = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            named.extend(links(line));
            named.extend(quoted_paths(line));
        }
    }
    named
}

/// Targets of `[text](target)` that are not addresses of elsewhere.
fn links(line: &str) -> Vec<String> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let local = targets.filter(|target| {
        !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
    });
    local.map(|target| target.split('#').next().unwrap_or(target).to_string()).collect()
}

/// Code quotes that are a path from the root: below a known folder, or a document beside the README.
fn quoted_paths(line: &str) -> Vec<String> {
    let quotes = line.split('`').skip(1).step_by(2);
    let is_path = |quote: &&str| {
        let below = TOP_LEVEL.iter().any(|top| quote.starts_with(top));
        let plain = !quote.contains([' ', '*', '<', '{', '$', ':', '=', '(']);
        plain && (below || (quote.ends_with(".md") && !quote.contains('/')))
    };
    quotes.filter(is_path).map(str::to_string).collect()
}

/// Named files that `exists` does not know.
pub fn check_named_files(document: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = named_files(text).into_iter().filter(|path| !exists(path.trim_end_matches('/')));
    missing.map(|path| format!("{document} names {path}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "See [the map](ARCHITECTURE.md#crates), [etcd](https://etcd.io), `raftstore/src/worker.rs`,\n\
        `raftstore` alone, `proto/*.proto`, `cargo test -p x`, `LICENSE.md` and [up](#top).\n\
        ```\nimport `bench/in/a/block`\n```\n`.ci/`";

    #[test]
    fn links_and_quoted_paths_are_named() {
        assert_eq!(named_files(TEXT), ["ARCHITECTURE.md", "raftstore/src/worker.rs", "LICENSE.md", ".ci/"]);
    }

    #[test]
    fn a_missing_file_is_found() {
        let findings = check_named_files("README.md", TEXT, |path| path != "raftstore/src/worker.rs");
        assert_eq!(findings, ["README.md names raftstore/src/worker.rs"]);
    }
}
