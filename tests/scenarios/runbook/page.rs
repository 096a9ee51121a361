//! What a page says is typed and printed.
//!
//! A block ` ```console ` holds steps: a line `SITE# COMMAND` is typed at a site, lines that begin with `> ` go on with it, and what follows
//! up to the next prompt is what is printed. `…` stands for any text in a line, and alone for any number of lines. Nothing after a
//! command: whatever it prints is right. `(exit code N)` ends the output of a command that does not end with 0. A comment
//! `<!-- bench: ORDER -->` between blocks is an order to the test bench that no operator gives: a fault, a load.

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A command and what it prints.
    Step(Step),
    /// An order to the test bench.
    Bench {
        /// What to do.
        order: String,
        /// Where it stands, from 1.
        line: usize,
    },
}

/// A command at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) site: String,
    pub(super) command: String,
    pub(super) expected: Vec<String>,
    pub(super) exit: i32,
    /// Where it stands, from 1.
    pub(super) line: usize,
}

/// Everything that a page orders, from its top to its end.
pub(super) fn parse(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        // Steps of a list are indented.
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") {
            inside = !inside && trimmed == "```console";
        } else if let Some(order) = trimmed.strip_prefix("<!-- bench: ") {
            let order = order.strip_suffix(" -->").unwrap_or_else(|| panic!("line {number} does not end the comment"));
            items.push(Item::Bench { order: order.to_owned(), line: number });
        } else if inside {
            take(&mut items, line, number);
        }
    }
    items
}

fn take(items: &mut Vec<Item>, line: &str, number: usize) {
    let trimmed = line.trim();
    if let Some((site, command)) = prompt(trimmed) {
        items.push(Item::Step(Step {
            site: site.to_owned(),
            command: command.to_owned(),
            expected: Vec::new(),
            exit: 0,
            line: number,
        }));
        return;
    }
    let Some(Item::Step(step)) = items.last_mut() else { panic!("line {number} belongs to no command: {line:?}") };
    if let Some(more) = trimmed.strip_prefix("> ") {
        step.command.push('\n');
        step.command.push_str(more);
    } else if let Some(code) = trimmed.strip_prefix("(exit code ").and_then(|rest| rest.strip_suffix(')')) {
        step.exit = code.parse().unwrap_or_else(|_| panic!("line {number} has no exit code: {line:?}"));
    } else {
        step.expected.push(trimmed.to_owned());
    }
}

/// `site-a# cfs …`
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (site, command) = line.split_once("# ")?;
    let is_site = site.starts_with("site-") && site.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_site.then_some((site, command))
}

/// Whether a text is what was expected, blank lines and margins aside.
pub(super) fn fits(expected: &[String], printed: &str) -> bool {
    let printed: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    expected.is_empty() || lines_fit(&expected, &printed)
}

fn lines_fit(expected: &[&str], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((&"…", rest)), _) => {
            lines_fit(rest, printed) || printed.split_first().is_some_and(|(_, after)| lines_fit(expected, after))
        }
        (Some(_), None) => false,
        (Some((want, rest)), Some((line, after))) => line_fits(want, line) && lines_fit(rest, after),
    }
}

fn line_fits(want: &str, line: &str) -> bool {
    // Columns are as wide as their longest cell.
    let want = want.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts: Vec<&str> = want.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return want == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn pages_are_read_and_compared() {
    let page = "text\n<!-- bench: kill site-a -->\n1. do\n   ```console\n   site-a# for x in a b; do\n   > echo $x; done\n   a\n   …\n\n   \
                site-b# false\n   (exit code 1)\n   ```\n```yaml\nsite-a# no\n```\n";
    let items = parse(page);
    let step = |site: &str, command: &str, expected: &[&str], exit, line| {
        let expected = expected.iter().map(|&line| line.to_owned()).collect();
        Item::Step(Step { site: site.into(), command: command.into(), expected, exit, line })
    };
    let loops = step("site-a", "for x in a b; do\necho $x; done", &["a", "…", ""], 0, 5);
    assert_eq!(
        items,
        [Item::Bench { order: "kill site-a".into(), line: 2 }, loops, step("site-b", "false", &[], 1, 10)]
    );
    let fit = |expected: &str, printed: &str| fits(&expected.lines().map(str::to_owned).collect::<Vec<_>>(), printed);
    assert!(fit("", "anything"));
    assert!(fit("a   b\n…\nz", "a b\n1\n2\nz\n") && fit("…", "") && fit("lag …ms", "  lag 12ms"));
    assert!(!fit("a", "a\nb") && !fit("a\nb", "a") && !fit("lag …ms x", "lag 12ms") && !fit("…\nq", "a\nb"));
}
