//! containerd's filters: `kind==committed,labels."a.b"!=x`.
//!
//! Terms of one filter are joined by *and*, filters by *or*. `~=` asks for a regular expression, which
//! is not evaluated here: its term lets everything through, and callers look at what they get once more.

use crate::fault::Fault;
use crate::id::quoted;
use crate::snapshot::{SnapshotInfo, SnapshotKind};

#[derive(Debug, PartialEq, Eq)]
enum Test {
    Present,
    Equal(String),
    Different(String),
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
struct Term {
    path: Vec<String>,
    test: Test,
}

/// What a list is narrowed by; none lets everything through.
#[derive(Debug, PartialEq, Eq)]
pub struct Filters(Vec<Vec<Term>>);

impl Filters {
    /// Reads filters; what is none is `Invalid`.
    pub fn read(texts: &[String]) -> Result<Self, Fault> {
        let one = |text: &String| {
            let mut reader = Reader { rest: text };
            reader.terms().ok_or_else(|| {
                Fault::invalid(format!(
                    "read filter {}: it breaks off or goes wrong at {}",
                    quoted(text),
                    quoted(reader.rest)
                ))
            })
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a snapshot is wanted.
    pub fn take(&self, info: &SnapshotInfo) -> bool {
        let all = |terms: &Vec<Term>| terms.iter().all(|term| term.holds(info));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Term {
    fn holds(&self, info: &SnapshotInfo) -> bool {
        let value = field(info, &self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == wanted),
            Test::Different(unwanted) => value.is_none_or(|value| value != unwanted),
            Test::Unknown => true,
        }
    }
}

fn field<'a>(info: &'a SnapshotInfo, path: &[String]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "name" => Some(info.key.as_str()),
        "parent" => info.parent.as_ref().map(super::SnapshotKey::as_str),
        "kind" => Some(match info.kind {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }),
        "labels" => info.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn terms(&mut self) -> Option<Vec<Term>> {
        let mut terms = Vec::new();
        while !self.rest.is_empty() {
            if !terms.is_empty() && !self.eat(",") {
                return None;
            }
            terms.push(self.term()?);
        }
        Some(terms)
    }

    fn term(&mut self) -> Option<Term> {
        let mut path = vec![self.word(false)?];
        while self.eat(".") {
            path.push(self.word(false)?);
        }
        let test = if self.eat("==") {
            Test::Equal(self.word(true)?)
        } else if self.eat("!=") {
            Test::Different(self.word(true)?)
        } else if self.eat("~=") {
            self.word(true)?;
            Test::Unknown
        } else {
            Test::Present
        };
        Some(Term { path, test })
    }

    /// A word, or a text in quotes; a value may hold more than a field's name.
    fn word(&mut self, value: bool) -> Option<String> {
        if self.eat("\"") {
            return self.quoted();
        }
        let ends = |c: char| {
            if value {
                c == ',' || c == '"'
            } else {
                !(c.is_ascii_alphanumeric() || c == '_')
            }
        };
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut all = self.rest.chars();
        loop {
            match all.next()? {
                '"' => break,
                '\\' => text.push(match all.next()? {
                    c @ ('"' | '\\') => c,
                    'n' => '\n',
                    't' => '\t',
                    _ => return None,
                }),
                c => text.push(c),
            }
        }
        self.rest = all.as_str();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::snapshot::SnapshotKey;

    fn takes(filters: &[&str]) -> bool {
        let info = SnapshotInfo {
            key: SnapshotKey::new("k8s.io/7/a b").unwrap(),
            parent: Some(SnapshotKey::new("p").unwrap()),
            kind: SnapshotKind::Committed,
            created: UNIX_EPOCH,
            updated: UNIX_EPOCH,
            labels: [("a.b/c".to_owned(), "x,y".to_owned())].into(),
        };
        let texts: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filters::read(&texts).unwrap().take(&info)
    }

    #[test]
    fn terms_are_joined_by_and_and_filters_by_or() {
        assert!(takes(&[]));
        assert!(takes(&["kind==committed,parent==p"]));
        assert!(!takes(&["kind==committed,parent==q"]));
        assert!(takes(&["parent==q", "name==\"k8s.io/7/a b\""]));
        assert!(takes(&["name==k8s.io/7/a b"]));
        assert!(!takes(&["kind!=committed"]));
    }

    #[test]
    fn labels_may_be_quoted_and_hold_anything() {
        assert!(takes(&[r#"labels."a.b/c"=="x,y""#]));
        assert!(takes(&[r#"labels."a.b/c""#]));
        assert!(!takes(&["labels.other"]));
        assert!(takes(&["labels.other!=x"]));
        assert!(takes(&["name~=^never$"]));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["==", "a==", "a==b,", "a b", "labels.\"a", "a==\"b", "é"] {
            assert!(Filters::read(&[text.to_owned()]).is_err(), "{text} was taken");
        }
    }
}
