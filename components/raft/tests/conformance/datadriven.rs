//! The file format of cockroachdb/datadriven.

/// One argument: `key`, `key=value` or `key=(v1, v2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub key: String,
    /// None at all for a bare key.
    pub values: Vec<String>,
}

/// One command with its expected output.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Line of the directive, from 1.
    pub line: usize,
    pub directive: String,
    pub command: String,
    pub arguments: Vec<Argument>,
    pub input: String,
    pub expected: String,
    /// Number of the first line after the separator, and of the first one after the output, from 0.
    pub output_lines: (usize, usize),
}

impl Case {
    /// The values of `key`, if it was given.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.arguments.iter().find(|argument| argument.key == key).map(|argument| argument.values.as_slice())
    }

    /// The first value of `key`, parsed.
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(values) = self.values(key) else { return Ok(None) };
        let value = values.first().ok_or_else(|| format!("{key}: missing value"))?;
        value.parse().map(Some).map_err(|_| format!("{key}: cannot parse {value}"))
    }

    /// Keys without values, in order.
    pub fn positional(&self) -> impl Iterator<Item = &str> {
        self.arguments
            .iter()
            .filter(|argument| argument.values.is_empty())
            .map(|argument| argument.key.as_str())
    }
}

/// Runs the commands of one file.
pub trait Handler {
    fn run(&mut self, case: &Case) -> String;
}

/// Reads all cases of a file.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut lines = text.lines().enumerate();
    let mut cases = Vec::new();
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') || trimmed.starts_with("subtest") {
            continue;
        }
        let mut directive = trimmed.to_owned();
        while let Some(open) = directive.strip_suffix('\\') {
            let next = lines.next().map_or("", |(_, line)| line.trim());
            directive = format!("{open} {next}");
        }
        let mut input = Vec::new();
        let separator = loop {
            match lines.next() {
                Some((at, "----")) => break Some(at),
                Some((_, line)) => input.push(line),
                None => break None,
            }
        };
        let expected = if separator.is_some() { expected(&mut lines)? } else { String::new() };
        let start = separator.map_or(0, |at| at + 1);
        let output_lines = (start, start + expected.lines().count());
        let (command, arguments) =
            parse_directive(&directive).map_err(|error| format!("line {}: {error}", number + 1))?;
        let input = input.join("\n").trim().to_owned();
        cases.push(Case { line: number + 1, directive, command, arguments, input, expected, output_lines });
    }
    Ok(cases)
}

fn expected<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<String, String> {
    let mut out = String::new();
    let mut push = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    match lines.next() {
        Some((_, "----")) => {}
        Some((_, first)) if !first.trim().is_empty() => {
            push(first);
            for (_, line) in lines.by_ref() {
                if line.trim().is_empty() {
                    break;
                }
                push(line);
            }
            return Ok(out);
        }
        _ => return Ok(out),
    }
    let mut is_closing = false;
    for (number, line) in lines.by_ref() {
        match (line, is_closing) {
            ("----", true) => {
                return match lines.next() {
                    Some((number, line)) if !line.trim().is_empty() => {
                        Err(format!("line {}: text after the closing separator", number + 1))
                    }
                    _ => Ok(out),
                };
            }
            ("----", false) => is_closing = true,
            (_, true) => {
                push("----");
                push(line);
                is_closing = false;
            }
            (_, false) => push(line),
        }
        let _ = number;
    }
    Err("unclosed output".to_owned())
}

fn parse_directive(directive: &str) -> Result<(String, Vec<Argument>), String> {
    let (command, mut rest) = directive.split_once(' ').unwrap_or((directive, ""));
    let mut arguments = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok((command.to_owned(), arguments));
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix('=') else {
            arguments.push(Argument { key, values: Vec::new() });
            continue;
        };
        let values;
        (values, rest) = if after.starts_with('(') {
            parse_list(after)?
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (vec![after[..end].to_owned()], &after[end..])
        };
        arguments.push(Argument { key, values });
    }
}

/// Reads `(v1, v2, (nested, ..))`.
fn parse_list(text: &str) -> Result<(Vec<String>, &str), String> {
    let (mut values, mut value, mut depth) = (Vec::new(), String::new(), 0);
    let mut skip_spaces = false;
    for (at, char) in text.char_indices() {
        if skip_spaces && char == ' ' {
            continue;
        }
        skip_spaces = false;
        match char {
            '(' => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            ')' => {
                depth -= 1;
                if depth == 0 {
                    if !(values.is_empty() && value.is_empty()) {
                        values.push(value);
                    }
                    return Ok((values, &text[at + 1..]));
                }
            }
            ',' if depth == 1 => {
                values.push(std::mem::take(&mut value));
                skip_spaces = true;
                continue;
            }
            _ => {}
        }
        value.push(char);
    }
    Err("unclosed parenthesis".to_owned())
}

/// `text` without the lines that a logger wrote; a lone `ok` is nothing too.
pub fn without_log_lines(text: &str) -> String {
    let is_log_line = |line: &&str| {
        let line = line.trim_start();
        ["DEBUG ", "INFO ", "WARN ", "ERROR ", "FATAL "].iter().any(|level| line.starts_with(level))
    };
    let rest: String = text.lines().filter(|line| !is_log_line(line)).flat_map(|line| [line, "\n"]).collect();
    if rest == "ok\n" { String::new() } else { rest }
}

/// Whether the outputs differ, log lines aside.
pub fn differs(expected: &str, actual: &str) -> bool {
    without_log_lines(expected) != without_log_lines(actual)
}

/// Lines of both texts, common ones once, after the first difference all.
pub fn diff(expected: &str, actual: &str) -> Vec<String> {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let common = expected.iter().zip(&actual).take_while(|(left, right)| left == right).count();
    let rest_expected = &expected[common..];
    let rest_actual = &actual[common..];
    let tail = rest_expected.iter().rev().zip(rest_actual.iter().rev()).take_while(|(l, r)| l == r).count();
    let mut out: Vec<String> = expected[..common].iter().map(|line| format!("  {line}")).collect();
    out.extend(rest_expected[..rest_expected.len() - tail].iter().map(|line| format!("- {line}")));
    out.extend(rest_actual[..rest_actual.len() - tail].iter().map(|line| format!("+ {line}")));
    out.extend(rest_expected[rest_expected.len() - tail..].iter().map(|line| format!("  {line}")));
    out
}
