//! Who may import whom: the table of ARCHITECTURE.md, checked against `cargo metadata` and `cargo tree`.
//! Dependencies of tests, benches and examples are free.

use std::collections::BTreeSet;
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate (its folder's name) and what it may import, in the order of ARCHITECTURE.md's table.
const TABLE: [(&str, &[&str]); 12] = [
    ("proto", &[]),
    ("planted", &[]),
    ("raft", &["planted"]),
    ("region", &["raft"]),
    ("engine", &["region"]),
    ("placement", &["planted", "region"]),
    ("raftstore", &["planted", "raft", "region", "engine", "placement", "proto"]),
    ("kv", &["region", "engine", "raftstore", "proto"]),
    ("router", &["planted", "region", "proto"]),
    ("server", &["planted", "proto", "raft", "region", "engine", "placement", "raftstore", "kv", "router"]),
    (
        "tests",
        &["planted", "proto", "raft", "region", "engine", "placement", "raftstore", "kv", "router", "server"],
    ),
    (
        "bench",
        &["planted", "proto", "raft", "region", "engine", "placement", "raftstore", "kv", "router", "server"],
    ),
];

/// Crates that run under the simulator: no clock, no threads, no randomness, no runtime, no network.
pub const BELOW_THE_WIRING: [&str; 7] =
    ["planted", "raft", "region", "engine", "placement", "kv", "raftstore"];

/// The router's asynchronous shell, and the servers in memory that it offers to tests.
const ROUTER_SHELL: [&str; 2] = ["router/src/client/", "router/src/testing/"];

/// Outside crates that code below the wiring may use, and for what.
const OUTSIDE_BELOW_THE_WIRING: [(&str, &str); 12] = [
    ("bytes", "values without copies"),
    ("crc32fast", "checksums of frames and files"),
    ("crc64fast", "the client protocol's checksum"),
    ("crossbeam-channel", "mailboxes"),
    ("dashmap", "read delegates by region id, never iterated where order matters"),
    ("parking_lot", "the route table, the model engine"),
    ("prost", "encoding of wire types"),
    ("rocksdb", "the engine"),
    ("serde", "configuration values"),
    ("smallvec", "short lists without an allocation"),
    ("thiserror", "error enums"),
    ("tracing", "logs"),
];

/// What no dependency may bring along below the wiring.
const NEVER_REACHED: [&str; 14] = [
    "tokio",
    "tonic",
    "hyper",
    "axum",
    "async-std",
    "smol",
    "futures-executor",
    "rayon",
    "rand",
    "rand_core",
    "getrandom",
    "fastrand",
    "oorandom",
    "chrono",
];

/// The direct dependencies of one crate, those of its tests aside.
#[derive(Debug, Default)]
pub struct Imports {
    /// The crate's short name: its folder's.
    pub name: String,
    /// Crates of the workspace, by short name.
    pub inside: BTreeSet<String>,
    /// Crates from outside.
    pub outside: BTreeSet<String>,
    /// Whether it turns on proto's tonic services.
    pub services: bool,
}

/// Where a crate lies.
pub fn folder(name: &str) -> String {
    match name {
        "planted" | "raft" | "region" | "engine" | "placement" | "kv" | "server" => {
            format!("components/{name}")
        }
        _ => name.to_string(),
    }
}

/// Whether the file is source of a crate below the wiring (its tests, benches and examples are not), or of the
/// router outside its asynchronous shell.
pub fn is_below_the_wiring(path: &str) -> bool {
    let pure = BELOW_THE_WIRING.iter().any(|name| path.starts_with(&format!("{}/src/", folder(name))));
    pure || (path.starts_with("router/src/") && !ROUTER_SHELL.iter().any(|folder| path.starts_with(folder)))
}

/// The workspace's crates as `cargo metadata` describes them.
pub fn workspace() -> Vec<Imports> {
    let metadata = MetadataCommand::new()
        .manifest_path(crate::root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_string(), "--locked".to_string()])
        .exec()
        .expect("cargo metadata describes the workspace");
    let mut all = Vec::new();
    for package in &metadata.packages {
        let short = |package: &str| package.strip_prefix("flotilla-").map(str::to_string);
        let mut imports = Imports { name: short(&package.name).unwrap_or_default(), ..Imports::default() };
        for dependency in
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development)
        {
            imports.services |= dependency.name == "flotilla-proto"
                && dependency.features.iter().any(|name| name == "services");
            match short(&dependency.name) {
                Some(name) => imports.inside.insert(name),
                None => imports.outside.insert(dependency.name.clone()),
            };
        }
        all.push(imports);
    }
    all
}

/// Imports against the table, crates the table does not know, and rows without a crate.
pub fn check_imports(all: &[Imports]) -> Vec<String> {
    let mut findings = Vec::new();
    for imports in all {
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == imports.name) else {
            findings
                .push(format!("{:?} is not in the table: its package is flotilla-<folder>", imports.name));
            continue;
        };
        let wrong = imports.inside.iter().filter(|name| !allowed.contains(&name.as_str()));
        findings.extend(wrong.map(|name| format!("{} imports {name}", imports.name)));
    }
    let missing = TABLE.iter().filter(|(name, _)| !all.iter().any(|imports| imports.name == *name));
    findings.extend(missing.map(|(name, _)| format!("{name} is in the table and not in the workspace")));
    findings
}

/// Outside crates below the wiring that are not on the list, and tonic services turned on there.
pub fn check_outside(all: &[Imports]) -> Vec<String> {
    let mut findings = Vec::new();
    for imports in all.iter().filter(|imports| BELOW_THE_WIRING.contains(&imports.name.as_str())) {
        let named = |name: &String| OUTSIDE_BELOW_THE_WIRING.iter().any(|(allowed, _)| allowed == name);
        let unknown = imports.outside.iter().filter(|name| !named(name));
        findings.extend(
            unknown.map(|name| format!("{} uses {name}: not among the crates named for it", imports.name)),
        );
        if imports.services {
            findings.push(format!("{} turns on proto's tonic services", imports.name));
        }
    }
    findings
}

/// Every package that the crate reaches through normal dependencies, with its own choice of features.
pub fn reached_from(name: &str) -> Vec<String> {
    let package = format!("flotilla-{name}");
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", &package])
        .current_dir(crate::root())
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<String> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect();
    assert_eq!(all.first(), Some(&package), "cargo tree begins with the package itself");
    all
}

/// Runtimes and randomness among the packages reached from a crate below the wiring.
pub fn check_reached(name: &str, all: &[String]) -> Vec<String> {
    let bad: BTreeSet<&String> =
        all.iter().filter(|package| NEVER_REACHED.contains(&package.as_str())).collect();
    bad.into_iter().map(|package| format!("{name} reaches {package}")).collect()
}

/// Differences between the table in ARCHITECTURE.md's section "Crates" and the one above.
pub fn check_table(text: &str) -> Vec<String> {
    let rows = parse_table(text);
    if rows.is_empty() {
        return vec!["no table found under \"## Crates\"".to_string()];
    }
    let mut findings = Vec::new();
    for (name, imports) in &rows {
        let expected = TABLE.iter().find(|(known, _)| known == name);
        let expected: Option<BTreeSet<String>> =
            expected.map(|(_, all)| all.iter().map(|name| (*name).to_string()).collect());
        if expected.as_ref() != Some(imports) {
            findings.push(format!("{name}: the document says {imports:?}, tidy {expected:?}"));
        }
    }
    let missing = TABLE.iter().filter(|(name, _)| !rows.iter().any(|(known, _)| known == name));
    findings.extend(missing.map(|(name, _)| format!("{name} is missing in the document")));
    findings
}

/// Crates and their imports, as the document's rows say: `a`, `b` | one line | may import.
fn parse_table(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let Some(start) = text.find("\n## Crates") else { return Vec::new() };
    let section = &text[start + 1..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let mut rows: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, _, may] = cells[..] else { continue };
        let above: BTreeSet<String> = rows.iter().map(|(name, _)| name.clone()).collect();
        let imports: BTreeSet<String> = match without_parentheses(may).trim() {
            "–" => BTreeSet::new(),
            "all" | "all of the above" => above,
            list => list.split(',').map(|name| name.trim().to_string()).collect(),
        };
        for name in names.split(',') {
            let name = name.trim().trim_matches('`');
            let short = name.rsplit('/').next().unwrap_or(name);
            rows.push((short.to_string(), imports.clone()));
        }
    }
    rows
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0_i32;
    let keep = text.chars().filter(|c| {
        depth += i32::from(*c == '(');
        let outside = depth == 0;
        depth -= i32::from(*c == ')');
        outside
    });
    keep.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(name: &str, inside: &[&str], outside: &[&str]) -> Imports {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        Imports { name: name.to_string(), inside: set(inside), outside: set(outside), services: false }
    }

    /// The whole table as a workspace that uses every right it has.
    fn full() -> Vec<Imports> {
        TABLE.iter().map(|(name, allowed)| imports(name, allowed, &["bytes"])).collect()
    }

    #[test]
    fn the_table_allows_what_it_says() {
        assert_eq!(check_imports(&full()), Vec::<String>::new());
        assert_eq!(check_outside(&full()), Vec::<String>::new());
    }

    #[test]
    fn an_import_against_the_table_is_found() {
        let mut all = full();
        let raft = all.iter_mut().find(|imports| imports.name == "raft").expect("a row of the table");
        raft.inside.insert("region".to_string());
        assert_eq!(check_imports(&all), ["raft imports region"]);
    }

    #[test]
    fn unknown_and_missing_crates_are_found() {
        let mut all = full();
        all.remove(0);
        all.push(imports("helpers", &[], &[]));
        assert_eq!(check_imports(&all).len(), 2);
    }

    #[test]
    fn a_runtime_below_the_wiring_is_found() {
        for name in ["tokio", "tonic", "rand", "getrandom", "axum"] {
            assert_eq!(check_outside(&[imports("raftstore", &[], &[name])]).len(), 1, "{name}");
            assert_eq!(check_outside(&[imports("server", &[], &[name])]).len(), 0, "{name}");
        }
        let mut services = imports("kv", &["proto"], &[]);
        services.services = true;
        assert_eq!(check_outside(&[services]).len(), 1);
    }

    #[test]
    fn a_runtime_behind_another_crate_is_found() {
        let reached = ["flotilla-kv", "bytes", "tokio", "tokio", "tokio-macros"].map(str::to_string);
        assert_eq!(check_reached("kv", &reached), ["kv reaches tokio"]);
        assert!(
            reached_from("server").contains(&"tokio".to_string()),
            "cargo tree shows what server reaches"
        );
    }

    #[test]
    fn metadata_is_read_with_kinds() {
        let all = workspace();
        let raft =
            all.iter().find(|imports| imports.name == "raft").expect("the core is a crate of the workspace");
        assert!(raft.outside.contains("bytes") && !raft.outside.contains("proptest"), "{raft:?}");
        assert!(all.iter().any(|imports| imports.services), "someone serves tonic");
    }

    #[test]
    fn a_document_that_disagrees_is_found() {
        let text = "\n## Crates\n| crate | one line | may import |\n|---|---|---|\n| `proto` | x | – |\n\
            | `components/raft` | x | proto (all, of it) |\n| `tests`, `bench` | x | all |\n\n## Next\n| `x` | y | z |\n";
        let findings = check_table(text);
        assert!(findings.iter().any(|line| line.starts_with("raft:")), "{findings:?}");
        assert!(findings.iter().any(|line| line.starts_with("engine is missing")), "{findings:?}");
        assert!(!findings.iter().any(|line| line.starts_with("proto")), "{findings:?}");
        assert_eq!(check_table("# nothing").len(), 1);
    }
}
