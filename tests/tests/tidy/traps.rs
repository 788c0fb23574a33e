//! Rules on tests/TRAPS.md: every trap has its row, and what a row names exists.

/// Traps of the catalogue.
const TRAPS: u32 = 30;
/// Schedules S-a to this one.
const LAST_SCHEDULE: char = 'j';

/// Rows that are missing, and names that are neither a file nor a planted bug.
pub fn check_traps(text: &str, planted: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| T") || line.starts_with("| S-")).collect();
    let wanted = (1..=TRAPS).map(|n| format!("T{n}")).chain(('a'..=LAST_SCHEDULE).map(|c| format!("S-{c}")));
    let has_row = |trap: &String| rows.iter().any(|row| row.starts_with(&format!("| {trap} |")));
    let mut findings: Vec<String> =
        wanted.filter(|trap| !has_row(trap)).map(|trap| format!("no row for {trap}")).collect();
    for row in rows {
        for name in row.split('`').skip(1).step_by(2) {
            let known =
                if name.contains('/') { exists(name) } else { planted.contains(&format!("\"{name}\"")) };
            if !known {
                findings.push(format!("{name} does not exist"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_row_and_an_unknown_name_are_found() {
        let text = "| T1 | x | planted `a-bug`, `b-bug`; `some/file.rs` |";
        let findings = check_traps(text, "bug(\"a-bug\")", |_| true);
        assert!(findings.contains(&"no row for T2".to_string()));
        assert!(findings.contains(&"b-bug does not exist".to_string()));
        assert!(!findings.iter().any(|f| f.contains("a-bug")));
    }
}
