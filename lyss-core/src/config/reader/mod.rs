//! Reading is declaring: a section's `read` names each of its keys once, with its type, its range
//! and the field it fills. From that one line come the value, the error message, the list for
//! "did you mean" and the reference of all keys, so they cannot drift apart.
//!
//! Every problem is recorded and reading goes on, so that all of them are reported at once.

mod typed;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Entry, Mark, Node, Scalar, Value};
pub(super) use typed::{Choice, DECIMAL, non_empty};

/// A part of the configuration that reads itself from a mapping. Fields whose key is absent keep
/// their default.
pub(super) trait Section: Default {
    /// Declares and reads every key.
    fn read(&mut self, reader: &mut Reader<'_, '_>);
}

/// What a whole read collects.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub file: String,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// Every key visited, as a pattern (`providers.<id>.weight`, `routing.rules[].model`), with
    /// what it accepts.
    pub declared: BTreeMap<String, String>,
    /// Patterns of the keys that were present.
    pub present: BTreeSet<String>,
    /// Visit every section, present or not, and report nothing: used to list the keys.
    pub describe: bool,
}

impl Findings {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    fn diagnostic(&self, mark: &Mark, key: String, message: String) -> Diagnostic {
        match &mark.variable {
            Some(variable) => Diagnostic {
                file: "environment".to_owned(),
                line: 0,
                column: 0,
                key,
                message: format!("{variable}: {message}"),
            },
            None => Diagnostic {
                file: self.file.clone(),
                line: mark.line,
                column: mark.column,
                key,
                message,
            },
        }
    }

    pub(super) fn error(
        &mut self,
        mark: &Mark,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        if !self.describe {
            let error = self.diagnostic(mark, key.into(), message.into());
            self.errors.push(error);
        }
    }

    pub(super) fn warn(&mut self, mark: &Mark, key: impl Into<String>, message: impl Into<String>) {
        if !self.describe {
            let warning = self.diagnostic(mark, key.into(), message.into());
            self.warnings.push(warning);
        }
    }
}

/// A cursor over one mapping of the tree.
pub(super) struct Reader<'t, 'f> {
    findings: &'f mut Findings,
    entries: &'t [Entry],
    /// Where the section itself stands, for "missing" messages.
    mark: Mark,
    path: String,
    pattern: String,
    known: Vec<&'static str>,
}

impl<'t, 'f> Reader<'t, 'f> {
    /// Reads the whole tree into a section.
    pub(super) fn read_root<S: Section>(root: &'t Node, findings: &'f mut Findings) -> S {
        let entries = match &root.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => {
                let message = format!("is {}; a configuration is a mapping", root.shape());
                findings.error(&root.mark, "", message);
                &[]
            }
        };
        let mut reader = Self {
            findings,
            entries,
            mark: root.mark.clone(),
            path: String::new(),
            pattern: String::new(),
            known: Vec::new(),
        };
        let mut section = S::default();
        section.read(&mut reader);
        reader.refuse_unknown();
        section
    }

    // --- values ---------------------------------------------------------------------------

    /// A value with a parser of its own; the message repeats the value.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        accepts: impl Into<Cow<'static, str>>,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut impl From<T>,
    ) {
        self.one(key, accepts.into(), true, parse, slot);
    }

    /// A secret value with a parser of its own; the message does not repeat the value.
    pub(super) fn hidden<T>(
        &mut self,
        key: &'static str,
        accepts: impl Into<Cow<'static, str>>,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut impl From<T>,
    ) {
        self.one(key, accepts.into(), false, parse, slot);
    }

    fn one<T>(
        &mut self,
        key: &'static str,
        accepts: Cow<'static, str>,
        show: bool,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut impl From<T>,
    ) {
        let entry = self.declare(key, &accepts);
        if let Some(entry) = entry {
            let path = join(&self.path, key);
            if let Some(parsed) = self.scalar(&entry.node, &path, &accepts, show, &parse) {
                *slot = parsed.into();
            }
        }
    }

    /// A list of single values.
    pub(super) fn items<T>(
        &mut self,
        key: &'static str,
        accepts: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut Vec<T>,
    ) {
        let Some(entry) = self.declare(key, &format!("a list, each item {accepts}")) else {
            return;
        };
        let path = join(&self.path, key);
        if let Some(items) = self.list_of(&entry.node, &path, accepts) {
            *slot = self.scalars(items, &path, accepts, true, &parse);
        }
    }

    /// A list of secret values; messages do not repeat them.
    pub(super) fn hidden_items<T>(
        &mut self,
        key: &'static str,
        accepts: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut Vec<T>,
    ) {
        let Some(entry) = self.declare(key, &format!("a list, each item {accepts}")) else {
            return;
        };
        let path = join(&self.path, key);
        if let Some(items) = self.list_of(&entry.node, &path, accepts) {
            *slot = self.scalars(items, &path, accepts, false, &parse);
        }
    }

    /// A mapping from names to single values; values are not repeated in messages if not `show`.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        accepts: &'static str,
        show: bool,
        parse: impl Fn(&str) -> Result<T, String>,
        slot: &mut BTreeMap<String, T>,
    ) {
        let Some(entry) = self.declare(key, &format!("a mapping from names to {accepts}")) else {
            return;
        };
        let path = join(&self.path, key);
        for entry in self.map_of(&entry.node, &path).unwrap_or_default() {
            let path = join(&path, &entry.key);
            if let Some(parsed) = self.scalar(&entry.node, &path, accepts, show, &parse) {
                slot.insert(entry.key.clone(), parsed);
            }
        }
    }

    /// A mapping from names to lists of names.
    pub(super) fn name_lists(
        &mut self,
        key: &'static str,
        accepts: &'static str,
        slot: &mut BTreeMap<String, Vec<String>>,
    ) {
        let Some(entry) = self.declare(key, accepts) else {
            return;
        };
        let path = join(&self.path, key);
        for entry in self.map_of(&entry.node, &path).unwrap_or_default() {
            let path = join(&path, &entry.key);
            if let Some(items) = self.list_of(&entry.node, &path, "a name") {
                let names = self.scalars(items, &path, "a name", true, &non_empty);
                slot.insert(entry.key.clone(), names);
            }
        }
    }

    /// A mapping whose content is not ours to check, as JSON.
    pub(super) fn free_form(
        &mut self,
        key: &'static str,
        accepts: &'static str,
        slot: &mut serde_json::Map<String, serde_json::Value>,
    ) {
        let Some(entry) = self.declare(key, accepts) else {
            return;
        };
        let path = join(&self.path, key);
        for entry in self.map_of(&entry.node, &path).unwrap_or_default() {
            let json = self.json(&entry.node, &join(&path, &entry.key));
            slot.insert(entry.key.clone(), json);
        }
    }

    // --- sections -------------------------------------------------------------------------

    /// A nested section that always exists.
    pub(super) fn section<S: Section>(&mut self, key: &'static str, slot: &mut S) {
        let entry = self.declare_section(key);
        let path = join(&self.path, key);
        let pattern = join(&self.pattern, key);
        match entry {
            Some(entry) => {
                if let Some(entries) = self.map_of(&entry.node, &path) {
                    self.nested(entries, entry.mark.clone(), path, pattern, slot);
                }
            }
            None if self.findings.describe => {
                self.nested(&[], self.mark.clone(), path, pattern, slot);
            }
            None => {}
        }
    }

    /// A nested section that exists when it is written. A section name with nothing below it
    /// (all its lines commented out) is not there.
    pub(super) fn optional<S: Section>(&mut self, key: &'static str, slot: &mut Option<S>) {
        let written =
            matches!(self.get(key), Some(entry) if !matches!(entry.node.value, Value::Null));
        let mut section = slot.take().unwrap_or_default();
        self.section(key, &mut section);
        *slot = (written || self.findings.describe).then_some(section);
    }

    /// A mapping from names that the user chooses to sections.
    pub(super) fn sections<S: Section>(
        &mut self,
        key: &'static str,
        name: &str,
        slot: &mut BTreeMap<String, S>,
    ) {
        let entry = self.declare_section(key);
        let path = join(&self.path, key);
        let pattern = join(&join(&self.pattern, key), name);
        if self.findings.describe {
            self.nested(&[], self.mark.clone(), path, pattern, &mut S::default());
            return;
        }
        let Some(entry) = entry else { return };
        for entry in self.map_of(&entry.node, &path).unwrap_or_default() {
            let path = join(&path, &entry.key);
            let mut section = S::default();
            if let Some(entries) = self.map_of(&entry.node, &path) {
                let mark = entry.mark.clone();
                self.nested(entries, mark, path, pattern.clone(), &mut section);
            }
            slot.insert(entry.key.clone(), section);
        }
    }

    /// As [`sections`](Self::sections), but a name may also have a list of sections.
    pub(super) fn sections_or_lists<S: Section>(
        &mut self,
        key: &'static str,
        name: &str,
        slot: &mut BTreeMap<String, Vec<S>>,
    ) {
        if self.findings.describe {
            self.sections::<S>(key, name, &mut BTreeMap::new());
            return;
        }
        let Some(entry) = self.declare_section(key) else {
            return;
        };
        let path = join(&self.path, key);
        let pattern = join(&join(&self.pattern, key), name);
        for entry in self.map_of(&entry.node, &path).unwrap_or_default() {
            let path = join(&path, &entry.key);
            let nodes: Vec<(String, &Mark, &'t Node)> = match &entry.node.value {
                Value::List(items) => (items.iter().enumerate())
                    .map(|(index, item)| (format!("{path}[{index}]"), &item.mark, item))
                    .collect(),
                _ => vec![(path, &entry.mark, &entry.node)],
            };
            let mut sections = Vec::new();
            for (path, mark, node) in nodes {
                let mut section = S::default();
                if let Some(entries) = self.map_of(node, &path) {
                    self.nested(entries, mark.clone(), path, pattern.clone(), &mut section);
                }
                sections.push(section);
            }
            slot.insert(entry.key.clone(), sections);
        }
    }

    /// A list of sections.
    pub(super) fn list<S: Section>(&mut self, key: &'static str, slot: &mut Vec<S>) {
        let entry = self.declare_section(key);
        let path = join(&self.path, key);
        let pattern = format!("{}[]", join(&self.pattern, key));
        if self.findings.describe {
            self.nested(&[], self.mark.clone(), path, pattern, &mut S::default());
            return;
        }
        let Some(entry) = entry else { return };
        let items = self.list_of(&entry.node, &path, "a mapping");
        *slot = Vec::new();
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let mut section = S::default();
            if let Some(entries) = self.map_of(item, &path) {
                self.nested(
                    entries,
                    item.mark.clone(),
                    path,
                    pattern.clone(),
                    &mut section,
                );
            }
            slot.push(section);
        }
    }

    fn nested<S: Section>(
        &mut self,
        entries: &[Entry],
        mark: Mark,
        path: String,
        pattern: String,
        section: &mut S,
    ) {
        let mut reader = Reader {
            findings: &mut *self.findings,
            entries,
            mark,
            path,
            pattern,
            known: Vec::new(),
        };
        section.read(&mut reader);
        reader.refuse_unknown();
    }

    // --- for sections with rules of their own ------------------------------------------------

    /// What stands at a key.
    pub(super) fn written(&self, key: &str) -> Option<&'t Node> {
        self.get(key).map(|entry| &entry.node)
    }

    /// Tells whether the keys are only being listed.
    pub(super) fn describes(&self) -> bool {
        self.findings.describe
    }

    /// Tells whether a key is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Records a missing key of this section.
    pub(super) fn require(&mut self, key: &'static str, accepts: &str) {
        if !self.has(key) {
            let path = join(&self.path, key);
            let message = format!("is missing; accepted: {accepts}");
            self.findings.error(&self.mark, path, message);
        }
    }

    /// Records an error about the section itself.
    pub(super) fn error_here(&mut self, message: impl Into<String>) {
        self.findings.error(&self.mark, self.path.clone(), message);
    }

    /// Records a warning about a value of this section.
    pub(super) fn warn_at(&mut self, node: &Node, key: &str, message: impl Into<String>) {
        self.findings
            .warn(&node.mark, join(&self.path, key), message);
    }

    /// Records an error about a value of this section.
    pub(super) fn error_at(&mut self, node: &Node, key: &str, message: impl Into<String>) {
        self.findings
            .error(&node.mark, join(&self.path, key), message);
    }

    /// Declares a key and gives its node as it is.
    pub(super) fn declare(&mut self, key: &'static str, accepts: &str) -> Option<&'t Entry> {
        let pattern = join(&self.pattern, key);
        let entry = self.declare_section(key);
        self.findings.declared.insert(pattern, accepts.to_owned());
        entry
    }

    /// The text of a node, or why it has none.
    pub(super) fn text_of(node: &Node) -> Result<&Scalar, String> {
        match &node.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::Null => Err("has no value (remove the line to use the default)".to_owned()),
            Value::List(_) | Value::Map(_) => {
                Err(format!("is {}, not a single value", node.shape()))
            }
        }
    }

    // --- inner ----------------------------------------------------------------------------

    fn get(&self, key: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn declare_section(&mut self, key: &'static str) -> Option<&'t Entry> {
        self.known.push(key);
        let entry = self.get(key);
        if entry.is_some() {
            self.findings.present.insert(join(&self.pattern, key));
        }
        entry
    }

    fn scalar<T>(
        &mut self,
        node: &Node,
        path: &str,
        accepts: &str,
        show: bool,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let problem = match Self::text_of(node) {
            Ok(Scalar {
                unset: Some(variable),
                ..
            }) => {
                let message = format!(
                    "the environment variable {variable} is not set; set it, or write ${{{variable}:-default}}"
                );
                self.findings.error(&node.mark, path, message);
                return None;
            }
            Ok(scalar) => match parse(&scalar.text) {
                Ok(parsed) => return Some(parsed),
                Err(reason) if show => format!("{} {reason}", shown(&scalar.text)),
                Err(reason) => format!("the value {reason}"),
            },
            Err(reason) => reason,
        };
        let message = format!("{problem}; accepted: {accepts}");
        self.findings.error(&node.mark, path, message);
        None
    }

    fn scalars<T>(
        &mut self,
        items: &[Node],
        path: &str,
        accepts: &str,
        show: bool,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| {
                self.scalar(item, &format!("{path}[{i}]"), accepts, show, parse)
            })
            .collect()
    }

    fn map_of(&mut self, node: &'t Node, path: &str) -> Option<&'t [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Null => Some(&[]),
            _ => {
                let message = format!("is {}; accepted: a mapping", node.shape());
                self.findings.error(&node.mark, path, message);
                None
            }
        }
    }

    fn list_of(&mut self, node: &'t Node, path: &str, accepts: &str) -> Option<&'t [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Null => Some(&[]),
            _ => {
                let message = format!("is {}; accepted: a list, each item {accepts}", node.shape());
                self.findings.error(&node.mark, path, message);
                None
            }
        }
    }

    fn json(&mut self, node: &Node, path: &str) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar(scalar) if scalar.plain && scalar.unset.is_none() => {
                plain_json(&scalar.text)
            }
            Value::Scalar(_) => self
                .scalar(node, path, "any value", false, &|text| Ok(text.to_owned()))
                .map_or(serde_json::Value::Null, serde_json::Value::from),
            Value::List(items) => items.iter().map(|item| self.json(item, path)).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), self.json(&entry.node, path)))
                .collect(),
        }
    }

    fn refuse_unknown(&mut self) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let hint = match nearest(&entry.key, self.known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None if entry.key == "<<" => "YAML merge keys are not read here".to_owned(),
                None => format!("accepted here: {}", self.known.join(", ")),
            };
            let path = join(&self.path, &entry.key);
            self.findings
                .error(&entry.mark, path, format!("unknown key; {hint}"));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value as it is repeated in a message: escaped and cut.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    if text.chars().count() > CHARS_MAX {
        let cut: String = text.chars().take(CHARS_MAX).collect();
        format!("{cut:?}…")
    } else {
        format!("{text:?}")
    }
}

/// YAML 1.2 core schema for a plain scalar, which for these types is JSON's notation.
fn plain_json(text: &str) -> serde_json::Value {
    match text {
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
    }
}
