//! Rust source taken apart just far enough for rules on words: code without comments and literals, comments without
//! code, and which lines are test code. Not a parser: it knows comments, literals and matching brackets.

/// One .rs file.
pub struct Source {
    /// Relative to the workspace root, with `/`.
    pub path: String,
    /// The text as it stands.
    pub text: String,
    /// The text with comments and the insides of literals blanked; same length and line breaks.
    pub code: String,
    /// The text with all but comments blanked; same length and line breaks.
    pub comments: String,
    /// The whole file is test, bench or example code.
    pub is_test: bool,
    /// Byte ranges of test items (`#[cfg(test)]`, `#[test]`) in a file that is not.
    test_ranges: Vec<(usize, usize)>,
}

impl Source {
    /// Takes `text` apart; `path` decides whether the file as a whole is test code.
    pub fn parse(path: &str, text: &str) -> Source {
        let (code, comments) = separate(text);
        let test_ranges = test_items(&code);
        Source {
            path: path.to_string(),
            text: text.to_string(),
            is_test: is_test_path(path),
            code,
            comments,
            test_ranges,
        }
    }

    /// Whether the byte at `at` belongs to test code.
    pub fn in_test(&self, at: usize) -> bool {
        self.is_test || self.test_ranges.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// A finding at byte `at`: path, line, message.
    pub fn finding(&self, at: usize, what: &str) -> String {
        let line = self.text[..at].matches('\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }

    /// The name of the function whose head stands last before `at`, or nothing.
    pub fn function_at(&self, at: usize) -> &str {
        let heads = occurrences(&self.code[..at], "fn");
        heads.last().map_or("", |head| identifier(self.code[head + 2..].trim_start()))
    }
}

/// The identifier that `text` begins with.
pub fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Byte positions of `needle` in `text`, where it is not part of a longer word.
pub fn occurrences(text: &str, needle: &str) -> Vec<usize> {
    let starts_word = needle.chars().next().is_some_and(is_word);
    let ends_word = needle.chars().next_back().is_some_and(is_word);
    text.match_indices(needle)
        .map(|(at, _)| at)
        .filter(|at| !(starts_word && text[..*at].chars().next_back().is_some_and(is_word)))
        .filter(|at| !(ends_word && text[*at + needle.len()..].chars().next().is_some_and(is_word)))
        .collect()
}

/// tests/ and bench/, and any crate's tests, benches and examples.
fn is_test_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let folders = &parts[..parts.len() - 1];
    folders.iter().any(|part| matches!(*part, "tests" | "bench" | "benches" | "examples"))
}

/// Marks the files that a `#[cfg(test)] mod name;` brings in.
pub fn mark_test_files(all: &mut [Source]) {
    let marked: Vec<String> = all.iter().flat_map(test_modules).collect();
    for source in all {
        let hit = marked
            .iter()
            .any(|stem| source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/")));
        source.is_test |= hit;
    }
}

/// Paths, without .rs, of the modules that the file declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let home =
        if matches!(stem, "lib" | "main" | "mod") { folder.to_string() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    for (from, to) in &source.test_ranges {
        let (item, text) = (&source.code[*from..*to], &source.text[*from..*to]);
        let Some(at) = occurrences(item, "mod").into_iter().next().filter(|_| item.trim_end().ends_with(';'))
        else {
            continue;
        };
        let name = identifier(item[at + 3..].trim_start());
        // `#[path = "file.rs"]` counts from the file's own folder.
        let path = text.split_once("#[path = \"").and_then(|(_, rest)| rest.split_once(".rs\""));
        found.push(path.map_or_else(|| format!("{home}/{name}"), |(path, _)| format!("{folder}/{path}")));
    }
    found
}

/// Byte ranges of the items behind `#[test]` and `#[cfg(...test...)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (at, _) in code.match_indices("#[") {
        if ranges.last().is_some_and(|(_, end)| at < *end) {
            continue;
        }
        let close = matching(code, at + 1);
        let attribute: String = code[at + 2..close].chars().filter(|c| !c.is_whitespace()).collect();
        let on_test = attribute.starts_with("cfg(")
            && !occurrences(&attribute, "test").is_empty()
            && !attribute.contains("not(test");
        if attribute == "test" || on_test {
            ranges.push((at, item_end(code, close + 1)));
        }
    }
    ranges
}

/// Position after the item that starts at or after `from`: its closing brace, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'{' => return matching(code, at) + 1,
            b';' => return at + 1,
            b'(' | b'[' => at = matching(code, at) + 1,
            _ => at += 1,
        }
    }
    code.len()
}

/// Position of the bracket that closes the one at `open`, or the end of the code.
fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// Where a byte of the text belongs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Splits `text` into code and comments, each with everything else blanked.
fn separate(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let (mut code, mut comments) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(bytes.len()));
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = token(text, at);
        for byte in &bytes[at..end] {
            let keep = |wanted: Kind| {
                if *byte == b'\n' || (kind == wanted && byte.is_ascii()) { *byte } else { b' ' }
            };
            code.push(keep(Kind::Code));
            comments.push(keep(Kind::Comment));
        }
        at = end;
    }
    let ascii = |bytes| String::from_utf8(bytes).expect("only ASCII bytes are kept");
    (ascii(code), ascii(comments))
}

/// The kind of what stands at `at`, and where it ends.
fn token(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text.as_bytes()[at..];
    let after_word =
        at > 0 && (text.as_bytes()[at - 1].is_ascii_alphanumeric() || text.as_bytes()[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return (Kind::Comment, at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return (Kind::Comment, at + block_comment(rest));
    }
    if rest[0] == b'"' {
        return (Kind::Literal, at + string(rest));
    }
    if !after_word && let Some(len) = raw_string(rest) {
        return (Kind::Literal, at + len);
    }
    if rest[0] == b'\''
        && let Some(len) = character(&text[at..])
    {
        return (Kind::Literal, at + len);
    }
    (Kind::Code, at + 1)
}

/// Length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of the quoted string that `rest` begins with.
fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of the raw string (`r"`, `br#"`, `cr##"`) that `rest` begins with, if it does.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"r"[..], b"br", b"cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix) && matches!(rest.get(prefix.len()), Some(b'"' | b'#')))?;
    let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + 1 + end + close.len()))
}

/// Length of the character literal that `rest` begins with; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        // The escaped character itself may be a quote: look for the closing one after it.
        let (escaped, _) = chars.next()?;
        return rest[escaped + 1..].find('\'').map(|end| escaped + 1 + end + 1);
    }
    match chars.next() {
        Some((at, '\'')) => Some(at + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_kept_apart_from_code() {
        let text = "let a = \"HashMap // no\"; // HashMap\nlet b = 'x'; /* one /* two */ HashMap */ let c: &'static str = r#\"a\"HashMap\"#;";
        let source = Source::parse("raftstore/src/a.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert!(!source.code.contains("HashMap"));
        assert_eq!(source.comments.matches("HashMap").count(), 2);
        assert!(source.code.contains("let c: &'static str ="));
    }

    #[test]
    fn a_quote_in_a_character_does_not_open_a_string() {
        for literal in ["'\"'", "'\\''", "'\\\\'", "b'\"'", "'\\u{1F600}'", "'ß'", "'\\n'"] {
            let text = format!("f({literal}); HashMap");
            let source = Source::parse("a.rs", &text);
            assert!(source.code.ends_with("; HashMap"), "{literal}: {}", source.code);
        }
    }

    #[test]
    fn test_items_are_found_and_end_where_they_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x([1; 2]); } }\nfn c() {}\n#[test]\nfn d() {}\n#[cfg(not(test))]\nfn e() {}";
        let source = Source::parse("raftstore/src/a.rs", text);
        let tested = |name: &str| source.in_test(text.find(name).expect("the snippet has it"));
        assert_eq!(["fn a", "fn b", "fn c", "fn d", "fn e"].map(tested), [false, true, false, true, false]);
    }

    #[test]
    fn files_behind_a_test_module_are_test_files() {
        let mut all = vec![
            Source::parse("raftstore/src/lib.rs", "#[cfg(test)]\nmod tests;\nmod split;"),
            Source::parse("raftstore/src/split.rs", "#[cfg(test)] mod cases;"),
            Source::parse("raftstore/src/merge.rs", "#[cfg(test)]\n#[path = \"merge_tests.rs\"]\nmod tests;"),
            Source::parse("raftstore/src/merge_tests.rs", ""),
            Source::parse("raftstore/src/tests.rs", ""),
            Source::parse("raftstore/src/tests/deep.rs", ""),
            Source::parse("raftstore/src/split/cases.rs", ""),
        ];
        mark_test_files(&mut all);
        let tests: Vec<&str> =
            all.iter().filter(|source| source.is_test).map(|source| source.path.as_str()).collect();
        let expected = ["merge_tests.rs", "tests.rs", "tests/deep.rs", "split/cases.rs"];
        assert_eq!(tests, expected.map(|file| format!("raftstore/src/{file}")));
    }

    #[test]
    fn words_match_whole() {
        assert_eq!(occurrences("DashMap HashMap HashMaps Hash", "HashMap"), [8]);
        assert_eq!(occurrences("operand::x rand::x", "rand::"), [11]);
    }

    #[test]
    fn a_position_knows_its_function() {
        let source = Source::parse("a.rs", "fn first() {}\nfn wait_until() { here }");
        assert_eq!(source.function_at(source.text.find("here").expect("the snippet has it")), "wait_until");
    }
}
