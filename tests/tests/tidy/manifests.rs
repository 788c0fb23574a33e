//! Rules on Cargo.toml and clippy.toml files.

/// Folders whose code reads clocks and makes threads: they have a clippy.toml of their own.
pub const WIRING: [&str; 3] = ["components/server", "tests", "bench"];

/// Lines that every crate's Cargo.toml holds.
const INHERITED: [&str; 5] = [
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "license.workspace = true",
    "publish.workspace = true",
];

/// The limits of clippy.toml, which are the same everywhere.
const LIMITS: [&str; 2] = ["too-many-lines-threshold", "allow-unwrap-in-tests"];

/// The members that the root's Cargo.toml lists.
pub fn members(text: &str) -> Vec<String> {
    let Some((_, rest)) = text.split_once("members = [") else { return Vec::new() };
    let list = rest.split_once(']').map_or(rest, |(list, _)| list);
    list.split(',')
        .map(|name| name.trim().trim_matches('"').to_string())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Metadata, lints and versions of dependencies come from the workspace.
pub fn check_inherits(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let missing = INHERITED.iter().filter(|wanted| !lines.contains(wanted));
    let mut findings: Vec<String> = missing.map(|wanted| format!("{path}: lacks {wanted:?}")).collect();
    if !lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]) {
        findings.push(format!("{path}: lacks \"[lints] workspace = true\""));
    }
    if !lines.iter().any(|line| line.starts_with("description = ")) {
        findings.push(format!("{path}: lacks a description"));
    }
    let mut in_dependencies = false;
    for line in lines {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies]");
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') && !inherits(line) {
            findings.push(format!("{path}: {line:?} has a version of its own"));
        }
    }
    findings
}

/// Whether the line takes its version from the workspace, or names the crate itself (with features for its tests).
fn inherits(line: &str) -> bool {
    line.contains("workspace = true") || line.contains("path = \".\"")
}

/// A wiring crate's clippy.toml states the same limits as the root's.
pub fn check_limits(path: &str, text: &str, root: &str) -> Vec<String> {
    let value = |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).map(str::to_string);
    let differs =
        LIMITS.iter().filter(|key| value(root, key).is_none() || value(text, key) != value(root, key));
    differs.map(|key| format!("{path}: {key} differs from the root's")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\ndescription = \"b\"\nversion.workspace = true\n\
        edition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\n\
        publish.workspace = true\n\n[lints]\nworkspace = true\n\n[dependencies]\nbytes.workspace = true\n\
        serde = { workspace = true }\n[features]\nx = [\"dep:y\"]\n";

    #[test]
    fn a_manifest_that_inherits_passes() {
        assert_eq!(check_inherits("a/Cargo.toml", GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_missing_inheritance_is_found() {
        for line in INHERITED.iter().chain(&["[lints]", "description = \"b\""]) {
            let bad = GOOD.replace(&format!("\n{line}\n"), "\n");
            assert_eq!(check_inherits("a/Cargo.toml", &bad).len(), 1, "{line}");
        }
    }

    #[test]
    fn a_version_of_its_own_is_found() {
        let bad = GOOD.replace("bytes.workspace = true", "bytes = \"1\"");
        assert_eq!(check_inherits("a/Cargo.toml", &bad).len(), 1);
    }

    #[test]
    fn members_are_read() {
        assert_eq!(members("[workspace]\nmembers = [\n  \"a\",\n  \"b/c\",\n]\nx = [1]"), ["a", "b/c"]);
    }

    #[test]
    fn a_lifted_limit_is_found() {
        let root = "too-many-lines-threshold = 70\nallow-unwrap-in-tests = true\n";
        assert_eq!(check_limits("a", root, root), Vec::<String>::new());
        assert_eq!(check_limits("a", &root.replace("70", "700"), root).len(), 1);
        assert_eq!(check_limits("a", "", root).len(), 2);
    }
}
