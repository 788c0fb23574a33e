//! Rules on one source file. Each returns findings; none means tidy.

use crate::graph;
use crate::source::{Source, identifier, occurrences};

/// Lines of a .rs file at most.
const FILE_LINES_MAX: usize = 800;

/// What must not be named below the wiring, and why.
const NOT_BELOW_THE_WIRING: [(&str, &str); 19] = [
    ("Instant::now", "time is passed in"),
    ("SystemTime", "time is passed in"),
    ("recv_timeout", "reads a clock"),
    ("recv_deadline", "reads a clock"),
    ("thread::spawn", "threads are made by the wiring"),
    ("thread::scope", "threads are made by the wiring"),
    ("thread::Builder", "threads are made by the wiring"),
    ("thread::sleep", "a turn never blocks on time"),
    ("thread_local!", "state has one owner"),
    ("HashMap", "randomly ordered: use BTreeMap"),
    ("HashSet", "randomly ordered: use BTreeSet"),
    ("RandomState", "randomness is a seeded field"),
    ("rand::", "randomness is a seeded field"),
    ("fastrand::", "randomness is a seeded field"),
    ("getrandom", "randomness is a seeded field"),
    ("select!", "picks at random among ready channels"),
    ("tokio", "no runtime below the wiring"),
    ("tonic", "no network below the wiring"),
    ("process::exit", "fatal errors travel to the wiring"),
];

/// Where something from the list above is named all the same, and why that is sound.
const SEAMS: [(&str, &str, &str); 3] = [
    ("components/engine/src/rocks/mod.rs", "thread::sleep", "a planted slow disk; product builds have none"),
    ("raftstore/src/mailbox.rs", "recv_timeout", "where a thread waits for work; a simulator never calls it"),
    ("components/planted/src/lib.rs", "thread_local!", A_SWITCH),
];

/// A simulated cluster is one thread, and a bug is planted in one cluster.
const A_SWITCH: &str = "the simulator's switch for bugs made on purpose; product builds have none";

/// Code that does not land, in any file. Looked for in code without blanks, so that no formatting hides it.
const BANNED_CODE: [(&str, &str); 11] = [
    ("todo!", "unfinished code"),
    ("unimplemented!", "unfinished code"),
    ("dbg!", "left over from debugging"),
    ("Other(Box<dyn", "an error without a type: name the case"),
    ("Other(String", "an error without a type: name the case"),
    ("Box<dynError", "an error without a type: one enum per crate"),
    ("anyhow::", "an error without a type: one enum per crate"),
    ("#[ignore", "a test that does not run: delete it or make it run"),
    ("assert!(true", "cannot fail"),
    ("assert_eq!(true,true", "cannot fail"),
    ("assert!(1==1", "cannot fail"),
];

/// Words of a comment or a string that say the work is not done.
const BANNED_TEXT: [&str; 6] = ["FIXME", "XXX", "TODO", "HACK", "not yet implemented", "not implemented yet"];

/// Words that the field spells region, in an identifier's parts.
const NOT_THE_FIELDS_WORD: [&str; 4] = ["shard", "shards", "tablet", "tablets"];

/// dashmap's own word for its lock stripes.
const OTHERS_NAMES: [&str; 2] = ["with_shard_amount", "with_capacity_and_shard_amount"];

/// What `flotilla-region` may take from the core: ids and the values a descriptor holds.
const IDS_OF_RAFT: [&str; 6] = ["ConfState", "Index", "PeerId", "Term", "MemberKind", "Membership"];

/// The one reason to ignore a test: it is the process that another test starts and kills.
const CHILD: &str = "#[ignore = \"the child of ";

/// This folder, whose text consists of what the rules look for.
const SELF: &str = "tests/tests/tidy/";

/// A file longer than the limit.
pub fn check_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines, at most {FILE_LINES_MAX}: divide it by what it does", source.path)]
}

/// Clocks, threads, randomness, random order and runtimes in a crate below the wiring, its tests aside.
pub fn check_below_the_wiring(source: &Source) -> Vec<String> {
    if !graph::is_below_the_wiring(&source.path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    // The router's pure parts may tell tonic's error codes apart; they may not call it.
    let in_router = source.path.starts_with("router/");
    for (name, why) in NOT_BELOW_THE_WIRING.into_iter().filter(|(name, _)| !(in_router && *name == "tonic")) {
        if SEAMS.iter().any(|(path, allowed, _)| *path == source.path && *allowed == name) {
            continue;
        }
        let hits = occurrences(&source.code, name).into_iter().filter(|at| !source.in_test(*at));
        findings.extend(hits.map(|at| source.finding(at, &format!("{name}: {why}"))));
    }
    findings
}

/// Generated wire types outside raftstore's `wire.rs`, and more of the core in `region` than ids.
pub fn check_narrow_imports(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let is_wire = source.path.ends_with("/wire.rs") || source.path.contains("/wire/");
    if source.path.starts_with("raftstore/src/") && !is_wire {
        let hits = occurrences(&source.code, "flotilla_proto").into_iter().filter(|at| !source.in_test(*at));
        findings.extend(hits.map(|at| source.finding(at, "wire types belong in wire.rs")));
    }
    if source.path.starts_with("components/region/src/") {
        for at in occurrences(&source.code, "flotilla_raft") {
            let named = named_from(&source.code[at + "flotilla_raft".len()..]);
            let wide = named.into_iter().filter(|name| !IDS_OF_RAFT.contains(&name.as_str()));
            findings.extend(
                wide.map(|name| source.finding(at, &format!("{name}: region takes only ids from raft"))),
            );
        }
    }
    findings
}

/// The names that follow a crate's name in a path or a flat `use` list.
fn named_from(rest: &str) -> Vec<String> {
    let Some(path) = rest.strip_prefix("::") else { return Vec::new() };
    match path.strip_prefix('{') {
        Some(list) => {
            let inside = &list[..list.find('}').unwrap_or(list.len())];
            inside
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(|name| identifier(name).to_string())
                .collect()
        }
        None => vec![identifier(path).to_string()],
    }
}

/// Unfinished code, untyped errors, tests that cannot fail, and another field's word for a region.
pub fn check_words(source: &Source) -> Vec<String> {
    if source.path.starts_with(SELF) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let (squeezed, origin) = squeeze(&source.code);
    for (pattern, why) in BANNED_CODE {
        let hits = occurrences(&squeezed, pattern).into_iter().map(|at| origin[at]);
        let hits = hits.filter(|at| !source.text[*at..].starts_with(CHILD));
        findings.extend(hits.map(|at| source.finding(at, &format!("{pattern}: {why}"))));
    }
    for pattern in BANNED_TEXT {
        let hits = occurrences(&source.text, pattern);
        findings.extend(hits.into_iter().map(|at| source.finding(at, &format!("{pattern}: unfinished"))));
    }
    findings.extend(foreign_words(source));
    findings
}

/// Another field's word for a region: as a part of an identifier, or as a word of a comment.
fn foreign_words(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, word) in words(&source.code) {
        let parts = parts_of(word);
        if !OTHERS_NAMES.contains(&word)
            && parts.iter().any(|part| NOT_THE_FIELDS_WORD.contains(&part.as_str()))
        {
            findings.push(source.finding(at, &format!("{word}: the field says region")));
        }
    }
    for (at, word) in words(&source.comments) {
        if NOT_THE_FIELDS_WORD.contains(&word.to_lowercase().as_str()) {
            findings.push(source.finding(at, &format!("{word}: the field says region")));
        }
    }
    findings
}

/// Whole identifiers of `text` with their positions.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let word = identifier(&text[at..]);
        if !word.is_empty() {
            found.push((at, word));
        }
        at += word.len().max(1);
    }
    found
}

/// `SplitShardId` and `split_shard_id` as split, shard, id.
fn parts_of(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in word.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    parts
}

/// The text without white space, and where each byte of it stood. A blank between two words stays.
fn squeeze(text: &str) -> (String, Vec<usize>) {
    let (mut squeezed, mut origin) = (String::new(), Vec::new());
    for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        squeezed.push(c);
        origin.push(at);
    }
    (squeezed, origin)
}

/// `.unwrap()` in code that ships.
pub fn check_unwrap(source: &Source) -> Vec<String> {
    let (squeezed, origin) = squeeze(&source.code);
    let hits =
        squeezed.match_indices(".unwrap()").map(|(at, _)| origin[at]).filter(|at| !source.in_test(*at));
    hits.map(|at| source.finding(at, "unwrap(): return an error, or expect(\"why it holds\")")).collect()
}

/// A sleep in test code, unless the function says by its name that it waits for a condition or paces a load.
pub fn check_sleep(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if source.path.starts_with("bench/") {
        return findings;
    }
    for at in occurrences(&source.code, "sleep").into_iter().filter(|at| source.in_test(*at)) {
        let is_call = source.code[at + "sleep".len()..].trim_start().starts_with('(');
        let is_method = source.code[..at].trim_end().ends_with('.');
        let function = source.function_at(at);
        let waits = ["wait", "poll", "pace", "eventually"].iter().any(|prefix| function.starts_with(prefix));
        if is_call && !is_method && !waits {
            findings.push(
                source.finding(
                    at,
                    "sleep in a test: wait for the condition (a `wait_*` helper with a deadline)",
                ),
            );
        }
    }
    findings
}

/// An `allow` or `expect` attribute that lifts a house rule.
pub fn check_allows(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let generated = source.path.starts_with("proto/src/");
    for lint in ["too_many_lines", "missing_docs", "unused_must_use"] {
        let hits =
            occurrences(&source.code, lint).into_iter().filter(|at| !generated && !source.in_test(*at));
        findings.extend(hits.map(|at| source.finding(at, &format!("{lint} is not to be lifted"))));
    }
    if graph::is_below_the_wiring(&source.path) && !SEAMS.iter().any(|(path, _, _)| *path == source.path) {
        for lint in ["disallowed_methods", "disallowed_types", "disallowed_macros"] {
            let hits = occurrences(&source.code, lint).into_iter().filter(|at| !source.in_test(*at));
            findings.extend(hits.map(|at| source.finding(at, &format!("{lint} holds below the wiring"))));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings of `rule` on `text` as if it stood at `path`.
    fn run(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
        rule(&Source::parse(path, text))
    }

    const STORE: &str = "raftstore/src/worker.rs";

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(run(check_length, STORE, &"\n".repeat(800)).len(), 0);
        assert_eq!(run(check_length, STORE, &"\n".repeat(801)).len(), 1);
    }

    #[test]
    fn every_name_forbidden_below_the_wiring_is_found() {
        for (name, _) in NOT_BELOW_THE_WIRING {
            let text = format!("fn f() {{ let x = {name}(); }}");
            assert_eq!(run(check_below_the_wiring, STORE, &text).len(), 1, "{name}");
        }
        let text = "use std::collections::{BTreeMap, HashMap};";
        assert_eq!(run(check_below_the_wiring, "components/kv/src/lib.rs", text).len(), 1);
    }

    #[test]
    fn comments_tests_and_the_wiring_may_name_clocks() {
        let text = "// Instant::now\n#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }";
        assert_eq!(run(check_below_the_wiring, STORE, text), Vec::<String>::new());
        assert_eq!(run(check_below_the_wiring, "components/server/src/main.rs", "Instant::now()").len(), 0);
        assert_eq!(
            run(check_below_the_wiring, "raftstore/examples/embed/main.rs", "Instant::now()").len(),
            0
        );
    }

    #[test]
    fn a_seam_is_excused_for_what_it_is_named_for_and_nothing_else() {
        let (path, name, _) = SEAMS[0];
        assert_eq!(run(check_below_the_wiring, path, name).len(), 0);
        assert_eq!(run(check_below_the_wiring, STORE, name).len(), 1);
        assert_eq!(run(check_below_the_wiring, path, "Instant::now()").len(), 1);
    }

    #[test]
    fn the_router_is_pure_outside_its_shell() {
        assert_eq!(run(check_below_the_wiring, "router/src/region_cache.rs", "HashMap").len(), 1);
        assert_eq!(run(check_below_the_wiring, "router/src/client/mod.rs", "Instant::now()").len(), 0);
    }

    #[test]
    fn wire_types_outside_wire_rs_are_found() {
        assert_eq!(run(check_narrow_imports, STORE, "use flotilla_proto::raft::Message;").len(), 1);
        assert_eq!(
            run(check_narrow_imports, "raftstore/src/wire.rs", "use flotilla_proto::raft::Message;").len(),
            0
        );
    }

    #[test]
    fn more_than_ids_of_the_core_in_region_is_found() {
        let path = "components/region/src/lib.rs";
        assert_eq!(run(check_narrow_imports, path, "pub use flotilla_raft::{Index, Term};").len(), 0);
        assert_eq!(run(check_narrow_imports, path, "use flotilla_raft::{Index, RawNode};").len(), 1);
        assert_eq!(run(check_narrow_imports, path, "fn f(m: &flotilla_raft::Message) {}").len(), 1);
    }

    #[test]
    fn every_banned_code_is_found_however_it_is_formatted() {
        for (pattern, _) in BANNED_CODE {
            let spaced = pattern.replace("Box<dyn", "Box<dyn ").replace('(', " ( ");
            let text = format!("fn f() {{ {spaced} }}");
            assert!(!run(check_words, STORE, &text).is_empty(), "{pattern}");
        }
    }

    #[test]
    fn only_the_child_of_another_test_is_ignored() {
        assert_eq!(
            run(check_words, STORE, "#[test]\n#[ignore = \"the child of the test that kills it\"]").len(),
            0
        );
        assert_eq!(run(check_words, STORE, "#[test]\n#[ignore = \"slow\"]").len(), 1);
    }

    #[test]
    fn every_banned_text_is_found_in_comments_and_strings() {
        for pattern in BANNED_TEXT {
            assert_eq!(run(check_words, STORE, &format!("// {pattern}: later")).len(), 1, "{pattern}");
            assert!(!run(check_words, STORE, &format!("f(\"{pattern}\");")).is_empty(), "{pattern}");
        }
        assert_eq!(run(check_words, STORE, "f(\"\\u{0}XXXX\");").len(), 0);
    }

    #[test]
    fn foreign_words_for_a_region_are_found() {
        assert_eq!(run(check_words, STORE, "struct ShardId;").len(), 1);
        assert_eq!(run(check_words, STORE, "let split_shards = 1;").len(), 1);
        assert_eq!(run(check_words, STORE, "// each tablet has one").len(), 1);
        assert_eq!(
            run(check_words, STORE, "// a sharded store, of stripes\nDashMap::with_shard_amount(4)").len(),
            0
        );
    }

    #[test]
    fn unwrap_outside_tests_is_found() {
        assert_eq!(run(check_unwrap, STORE, "fn f() { x\n  .unwrap () }").len(), 1);
        assert_eq!(run(check_unwrap, STORE, "#[test] fn f() { x.unwrap() }").len(), 0);
        assert_eq!(
            run(check_unwrap, STORE, "fn f() { x.unwrap_or_default(); x.expect(\"held\") } // .unwrap()")
                .len(),
            0
        );
        assert_eq!(run(check_unwrap, "tests/tests/process.rs", "fn f() { x.unwrap() }").len(), 0);
    }

    #[test]
    fn a_sleep_in_a_test_is_found_unless_it_polls() {
        let path = "tests/tests/process.rs";
        assert_eq!(run(check_sleep, path, "fn kills() { thread::sleep(SECOND); }").len(), 1);
        assert_eq!(run(check_sleep, path, "async fn kills() { sleep(SECOND).await; }").len(), 1);
        assert_eq!(run(check_sleep, path, "fn wait_until() { thread::sleep(TICK); }").len(), 0);
        assert_eq!(run(check_sleep, path, "fn f() { clock.sleep(SECOND); }").len(), 0);
        assert_eq!(run(check_sleep, "components/server/src/main.rs", "fn f() { sleep(SECOND) }").len(), 0);
        assert_eq!(run(check_sleep, "bench/src/bin/load.rs", "fn f() { sleep(SECOND) }").len(), 0);
    }

    #[test]
    fn an_allow_that_lifts_a_limit_is_found() {
        assert_eq!(run(check_allows, STORE, "#[allow(clippy::too_many_lines)] fn f() {}").len(), 1);
        assert_eq!(run(check_allows, STORE, "#![allow(clippy::disallowed_methods)]").len(), 1);
        assert_eq!(
            run(check_allows, "router/src/client/mod.rs", "#![allow(clippy::disallowed_methods)]").len(),
            0
        );
    }
}
