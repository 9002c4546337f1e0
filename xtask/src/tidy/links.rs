//! Relative links of the papers lead somewhere.

use std::path::Path;

use super::Complaint;

/// Complaints about links in the Markdown `body` of `file`, a path below `root`.
pub(super) fn check(root: &Path, file: &str, body: &str) -> Vec<Complaint> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    targets(body)
        .filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|(line, target)| {
            let (path, anchor) = target
                .split_once('#')
                .map_or((target, None), |(p, a)| (p, Some(a)));
            let found = root.join(folder).join(path);
            if !path.is_empty() && !found.exists() {
                return Some(format!("{file}:{line}: link to {target} leads nowhere"));
            }
            let anchor = anchor?;
            let there = if path.is_empty() {
                body.to_owned()
            } else {
                std::fs::read_to_string(found).ok()?
            };
            let known = there
                .lines()
                .filter(|text| text.starts_with('#'))
                .any(|text| slug(text) == anchor);
            (!known).then(|| format!("{file}:{line}: link to {target}: no such heading"))
        })
        .collect()
}

/// Link targets outside fenced code, with their line numbers.
fn targets(body: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    body.lines().enumerate().flat_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let line = if fenced { "" } else { line };
        line.split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(move |(target, _)| (index + 1, target.trim()))
    })
}

/// The anchor that a heading gets: lower case, blanks to hyphens, punctuation dropped.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(body: &str) -> Vec<Complaint> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("there.md"), "# Top\n## How it `works`\n").unwrap();
        check(root.path(), "here.md", body)
    }

    #[test]
    fn live_links_are_silent() {
        let body =
            "# Me too\n[a](there.md) [b](there.md#how-it-works) [c](#me-too) [d](https://example.org/x)\n";
        assert_eq!(check_text(body), Vec::<String>::new());
    }

    #[test]
    fn a_dead_link_is_refused() {
        assert_eq!(
            check_text("\n[x](gone.md)"),
            ["here.md:2: link to gone.md leads nowhere"]
        );
    }

    #[test]
    fn a_dead_heading_is_refused() {
        assert_eq!(check_text("[x](there.md#none)").len(), 1);
        assert_eq!(check_text("[x](#none)").len(), 1);
    }

    #[test]
    fn fenced_code_holds_no_links() {
        assert!(check_text("```\n[x](gone.md)\n```").is_empty());
    }
}
