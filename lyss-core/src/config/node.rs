//! YAML text → a tree in which every key and value knows its place.
//!
//! A serde derive stops at the first error and forgets positions, so the configuration is read
//! from this tree instead (see `reader`). The parser is the event layer under serde-saphyr.
//! Everything is bounded: depth, number of nodes (aliases expanded, so that a "billion laughs"
//! file is refused), one document, no duplicate keys, no custom tags.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::diagnostic::Diagnostic;

/// Most nodes a configuration may have, aliases expanded. A gateway with a thousand providers has
/// some twenty thousand.
const NODES_MAX: usize = 200_000;
/// Deepest nesting. The deepest key of the reference is at 5, free-form provider options add some.
const DEPTH_MAX: usize = 32;

/// Where a key or value was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Mark {
    /// Line and column from 1; 0 when it came from the environment.
    pub line: usize,
    pub column: usize,
    /// The environment variable it came from.
    pub variable: Option<Arc<str>>,
}

impl Mark {
    pub(super) fn of_variable(name: &str) -> Self {
        Self {
            line: 0,
            column: 0,
            variable: Some(Arc::from(name)),
        }
    }
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
            variable: None,
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub mark: Mark,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar keeps its text (`10.00` stays `10.00`): what it means is decided by the key that reads
/// it, not by YAML's guess.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes: may be a number or a boolean.
    pub plain: bool,
    /// The first variable that was expanded in it.
    pub variable: Option<String>,
    /// The variable that `${VAR}` named, when it is not set and has no default.
    pub unset: Option<String>,
}

/// One `key: value` line.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub mark: Mark,
    pub node: Node,
}

impl Node {
    pub(super) fn empty_map() -> Self {
        Self {
            mark: Mark {
                line: 1,
                column: 1,
                variable: None,
            },
            value: Value::Map(Vec::new()),
        }
    }

    pub(super) fn text(text: &str, mark: Mark) -> Self {
        Self {
            mark,
            value: Value::Scalar(Scalar {
                text: text.to_owned(),
                plain: true,
                variable: None,
                unset: None,
            }),
        }
    }

    /// Names the shape for messages: "a list", "a mapping", …
    pub(super) fn shape(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Walks to the deepest existing node of `path` and gives the place of its key.
    pub(super) fn locate(&self, path: &[&str]) -> &Mark {
        let mut node = self;
        let mut mark = &self.mark;
        for segment in path {
            match &node.value {
                Value::Map(entries) => match entries.iter().find(|entry| entry.key == *segment) {
                    Some(entry) => {
                        node = &entry.node;
                        mark = match node.value {
                            // A wrong value is pointed at itself, a wrong section at its key.
                            Value::Scalar(_) => &node.mark,
                            _ => &entry.mark,
                        };
                    }
                    None => break,
                },
                Value::List(items) => {
                    match segment.parse().ok().and_then(|i: usize| items.get(i)) {
                        Some(item) => {
                            node = item;
                            mark = &item.mark;
                        }
                        None => break,
                    }
                }
                Value::Null | Value::Scalar(_) => break,
            }
        }
        mark
    }

    /// Visits every scalar value, depth first.
    pub(super) fn each_scalar(&mut self, visit: &mut impl FnMut(&mut Scalar)) {
        match &mut self.value {
            Value::Null => {}
            Value::Scalar(scalar) => visit(scalar),
            Value::List(items) => items.iter_mut().for_each(|item| item.each_scalar(visit)),
            Value::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| entry.node.each_scalar(visit)),
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.count()).sum(),
        }
    }
}

/// What parsing gives: the problems (duplicate keys, custom tags, a syntax error), and the tree if
/// one could be made in spite of them, so that its other problems can be reported too.
pub(super) struct Parsed {
    pub root: Option<Node>,
    pub problems: Vec<Diagnostic>,
}

/// Parses one YAML document. An empty text is an empty mapping.
pub(super) fn parse(file: &str, text: &str) -> Parsed {
    let mut options = granit_parser::options! {
        disallow_directives: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::new(file);
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => {
                if let Err(stop) = builder.event(event, span.start.into()) {
                    builder.problems.push(stop);
                    break;
                }
            }
            Err(error) => {
                let line = error.marker().line().saturating_sub(1);
                let line = text.lines().nth(line).unwrap_or_default();
                // `{ ttl: ${TTL} }`: the braces of the variable are YAML's inside a flow mapping.
                let hint = if line.contains("${") && line.replace("${", "").contains(['{', '[']) {
                    "; between { } or [ ] a ${VAR} needs quotes"
                } else {
                    ""
                };
                let problem = format!("not valid YAML: {}{hint}", error.info());
                builder.report(&(*error.marker()).into(), problem);
                break;
            }
        }
    }
    let root = match builder.root {
        None if builder.problems.is_empty() => Some(Node::empty_map()),
        root => root,
    };
    Parsed {
        root,
        problems: builder.problems,
    }
}

/// A collection that is still open.
struct Open {
    mark: Mark,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: HashSet<String>,
        /// The key whose value comes next.
        pending: Option<(String, Mark)>,
    },
}

struct Builder<'f> {
    file: &'f str,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    problems: Vec<Diagnostic>,
}

impl<'f> Builder<'f> {
    fn new(file: &'f str) -> Self {
        Self {
            file,
            stack: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            root: None,
            problems: Vec::new(),
        }
    }

    fn problem(&self, mark: &Mark, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            file: self.file.to_owned(),
            line: mark.line,
            column: mark.column,
            key: self.path(),
            message: message.into(),
        }
    }

    fn report(&mut self, mark: &Mark, message: impl Into<String>) {
        let problem = self.problem(mark, message);
        self.problems.push(problem);
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match &open.kind {
                OpenKind::List(items) => path.push_str(&format!("[{}]", items.len())),
                OpenKind::Map { pending, .. } => {
                    if let Some((key, _)) = pending {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(key);
                    }
                }
            }
        }
        path
    }

    /// Takes one event; an `Err` ends the parse (there is nothing sensible to go on with).
    fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &mark);
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Value::Null
                } else {
                    Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain,
                        variable: None,
                        unset: None,
                    })
                };
                self.finish(Node { mark, value }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &mark);
                self.open(mark, anchor, OpenKind::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &mark);
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    keys: HashSet::new(),
                    pending: None,
                };
                self.open(mark, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else {
                    return Ok(());
                };
                let value = match open.kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Map { entries, .. } => Value::Map(entries),
                };
                let node = Node {
                    mark: open.mark,
                    value,
                };
                self.finish(node, open.anchor, 1)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    let count = node.count();
                    // Counted before it is copied: the copy is what a bomb is made of.
                    if self.nodes + count > NODES_MAX {
                        return Err(self.too_many(&mark));
                    }
                    let node = node.clone();
                    self.finish(node, 0, count)
                }
                None => Err(self.problem(&mark, "this alias stands inside the value it names")),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err(self.problem(
                &mark,
                "a configuration is one YAML document; this is a second",
            )),
            _ => Ok(()),
        }
    }

    fn too_many(&self, mark: &Mark) -> Diagnostic {
        let message = format!("more than {NODES_MAX} values, aliases expanded");
        self.problem(mark, message)
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, mark: &Mark) {
        if let Some(tag) = tag
            && tag.core_suffix().is_none()
            && tag.original() != "!"
        {
            let message = format!("the tag {} means nothing here; remove it", tag.original());
            self.report(mark, message);
        }
    }

    fn open(&mut self, mark: Mark, anchor: usize, kind: OpenKind) -> Result<(), Diagnostic> {
        if self.stack.len() >= DEPTH_MAX {
            let message = format!("nested deeper than {DEPTH_MAX} levels");
            return Err(self.problem(&mark, message));
        }
        // A collection as a mapping key: the value position is `pending`, so none pending is a key.
        if let Some(Open {
            kind: OpenKind::Map { pending: None, .. },
            ..
        }) = self.stack.last()
        {
            return Err(self.problem(&mark, "a key must be a single name"));
        }
        self.stack.push(Open { mark, anchor, kind });
        Ok(())
    }

    /// Puts a finished node into its parent, as an item, a key or a value.
    fn finish(&mut self, node: Node, anchor: usize, count: usize) -> Result<(), Diagnostic> {
        self.nodes += count;
        if self.nodes > NODES_MAX {
            return Err(self.too_many(&node.mark));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let mut duplicate = None;
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open {
                kind: OpenKind::List(items),
                ..
            }) => items.push(node),
            Some(Open {
                kind:
                    OpenKind::Map {
                        entries,
                        keys,
                        pending,
                    },
                ..
            }) => match pending.take() {
                None => match node.value {
                    Value::Scalar(scalar) => *pending = Some((scalar.text, node.mark)),
                    _ => return Err(self.problem(&node.mark, "a key must be a single name")),
                },
                Some((key, mark)) => {
                    if keys.insert(key.clone()) {
                        entries.push(Entry { key, mark, node });
                    } else {
                        duplicate = Some((key, mark));
                    }
                }
            },
        }
        if let Some((key, mark)) = duplicate {
            let mut problem = self.problem(&mark, "this key is written twice; keep one of them");
            if !problem.key.is_empty() {
                problem.key.push('.');
            }
            problem.key.push_str(&key);
            self.problems.push(problem);
        }
        Ok(())
    }
}
