//! JSON read shallowly and kept as the bytes that came.
//!
//! A [`RawObject`] knows where the members of one object are; their values stay slices of the received bytes, so
//! numbers, key order, unknown fields and escapes travel untouched. [`RawObject::parse`] is one linear scan that
//! checks the whole text: grammar (RFC 8259), depth, control characters, lone surrogates, and that no key of the
//! object itself occurs twice (checker and provider must read the same).

use std::{borrow::Cow, collections::HashSet, fmt};

use bytes::Bytes;

use crate::error::{Error, ErrorKind};

/// The deepest nesting that is accepted. serde_json's own limit is the same.
pub const MAX_DEPTH: usize = 128;

/// The most members of one object that is read. (Objects inside it are not counted until they are read themselves.)
pub const MAX_MEMBERS: usize = 4_096;

/// Why a text is not accepted as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawError {
    /// Offset of the first byte that is wrong.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// The kinds of fault of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not UTF-8.
    Utf8,
    /// Not what the grammar allows there; says what was expected.
    Syntax(&'static str),
    /// Nested deeper than [`MAX_DEPTH`].
    Depth,
    /// Half of a surrogate pair, which is no character.
    LoneSurrogate,
    /// A raw control character inside a string.
    ControlCharacter,
    /// The object has more than [`MAX_MEMBERS`] members.
    Members,
    /// The object has this key twice.
    DuplicateKey(String),
    /// The text is JSON, but not an object.
    NotAnObject,
}

impl fmt::Display for RawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match &self.fault {
            Fault::Utf8 => write!(f, "not valid UTF-8 at byte {at}"),
            Fault::Syntax(expected) => {
                write!(f, "not valid JSON at byte {at}: expected {expected}")
            }
            Fault::Depth => write!(f, "nested deeper than {MAX_DEPTH} levels at byte {at}"),
            Fault::LoneSurrogate => write!(f, "half of a surrogate pair at byte {at}"),
            Fault::Members => write!(
                f,
                "an object has more than {MAX_MEMBERS} members at byte {at}"
            ),
            Fault::ControlCharacter => {
                write!(
                    f,
                    "control character inside a string at byte {at}; escape it"
                )
            }
            Fault::DuplicateKey(key) => write!(f, "the key `{}` occurs twice", key.escape_debug()),
            Fault::NotAnObject => write!(f, "the body must be a JSON object"),
        }
    }
}

impl std::error::Error for RawError {}

impl From<RawError> for Error {
    fn from(error: RawError) -> Self {
        let kind = match error.fault {
            Fault::DuplicateKey(_) => ErrorKind::DuplicateKey,
            _ => ErrorKind::InvalidJson,
        };
        Error::new(kind, error.to_string())
    }
}

/// One JSON object: its members in order, as slices of the text.
///
/// Edits ([`set`](Self::set), [`remove`](Self::remove)) change only the list; [`to_segments`](Self::to_segments)
/// writes runs of untouched members as one slice of the original text, so nothing large is copied.
#[derive(Debug, Clone)]
pub struct RawObject {
    text: Bytes,
    members: Vec<Member>,
    edited: bool,
}

#[derive(Debug, Clone)]
struct Member {
    /// Offsets into `text`: the key between its quotes, then the value. Unused when `new` is set.
    key: (u32, u32),
    value: (u32, u32),
    key_escaped: bool,
    new: Option<(Cow<'static, str>, Bytes)>,
}

impl RawObject {
    /// Reads a whole text that must be one object, checking all of it.
    pub fn parse(text: Bytes) -> Result<Self, RawError> {
        if let Err(error) = std::str::from_utf8(&text) {
            return Err(RawError {
                offset: error.valid_up_to(),
                fault: Fault::Utf8,
            });
        }
        if u32::try_from(text.len()).is_err() {
            return Err(RawError {
                offset: u32::MAX as usize,
                fault: Fault::Syntax("less than 4 GiB"),
            });
        }
        let mut scan = Scan { text: &text, at: 0 };
        scan.space();
        if scan.peek() != Some(b'{') {
            scan.value(0)?;
            return Err(RawError {
                offset: 0,
                fault: Fault::NotAnObject,
            });
        }
        let mut members = Vec::with_capacity(if text.len() < 512 { 4 } else { 12 });
        scan.object(0, |member| {
            members.push(member);
            members.len() <= MAX_MEMBERS
        })?;
        scan.space();
        if scan.at < text.len() {
            return Err(scan.expected("the end of the text"));
        }
        let object = Self {
            text,
            members,
            edited: false,
        };
        object.refuse_duplicates()?;
        Ok(object)
    }

    /// An object without members.
    pub fn empty() -> Self {
        Self {
            text: Bytes::from_static(b"{}"),
            members: Vec::new(),
            edited: true,
        }
    }

    fn refuse_duplicates(&self) -> Result<(), RawError> {
        let fault = |index: usize, key: &str| RawError {
            offset: self
                .members
                .get(index)
                .map_or(0, |member| member.key.0 as usize),
            fault: Fault::DuplicateKey(key.chars().take(100).collect()),
        };
        if self.members.len() <= 16 {
            for (index, member) in self.members.iter().enumerate() {
                let key = self.key(member);
                if self
                    .members
                    .iter()
                    .take(index)
                    .any(|earlier| self.key(earlier) == key)
                {
                    return Err(fault(index, &key));
                }
            }
            return Ok(());
        }
        let mut seen = HashSet::with_capacity(self.members.len());
        for (index, member) in self.members.iter().enumerate() {
            let key = self.key(member);
            if seen.contains(&key) {
                return Err(fault(index, &key));
            }
            seen.insert(key);
        }
        Ok(())
    }

    fn slice(&self, span: (u32, u32)) -> &[u8] {
        self.text
            .get(span.0 as usize..span.1 as usize)
            .unwrap_or_default()
    }

    fn key<'a>(&'a self, member: &'a Member) -> Cow<'a, str> {
        match &member.new {
            Some((key, _)) => Cow::Borrowed(key),
            None => {
                let inner = self.slice(member.key);
                if member.key_escaped {
                    let quoted = (member.key.0 - 1, member.key.1 + 1);
                    serde_json::from_slice::<String>(self.slice(quoted))
                        .unwrap_or_default()
                        .into()
                } else {
                    Cow::Borrowed(std::str::from_utf8(inner).unwrap_or_default())
                }
            }
        }
    }

    fn find(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|member| match &member.new {
            None if !member.key_escaped => self.slice(member.key) == key.as_bytes(),
            _ => self.key(member) == key,
        })
    }

    /// The value of a member. `null` is a value: see [`RawValue::is_null`].
    pub fn get(&self, key: &str) -> Option<RawValue<'_>> {
        let member = self.members.get(self.find(key)?)?;
        Some(match &member.new {
            Some((_, value)) => RawValue {
                text: value,
                owner: value,
            },
            None => RawValue {
                text: self.slice(member.value),
                owner: &self.text,
            },
        })
    }

    /// The value of a member that is neither absent nor `null`.
    pub fn get_some(&self, key: &str) -> Option<RawValue<'_>> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// Key and value of every member, in order.
    pub fn members(&self) -> impl Iterator<Item = (Cow<'_, str>, RawValue<'_>)> {
        self.members.iter().map(|member| {
            let value = match &member.new {
                Some((_, value)) => RawValue {
                    text: value,
                    owner: value,
                },
                None => RawValue {
                    text: self.slice(member.value),
                    owner: &self.text,
                },
            };
            (self.key(member), value)
        })
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the object has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Sets a member to a JSON text, in its place or at the end. The caller vouches that `json` is valid JSON.
    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, json: impl Into<Bytes>) {
        let (key, json) = (key.into(), json.into());
        self.edited = true;
        let member = Member {
            key: (0, 0),
            value: (0, 0),
            key_escaped: false,
            new: Some((key.clone(), json)),
        };
        match self
            .find(&key)
            .and_then(|index| self.members.get_mut(index))
        {
            Some(place) => *place = member,
            None => self.members.push(member),
        }
    }

    /// Sets a member to a string.
    pub fn set_str(&mut self, key: impl Into<Cow<'static, str>>, value: &str) {
        self.set(key, serde_json::to_vec(value).unwrap_or_default());
    }

    /// Removes a member; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        match self.find(key) {
            Some(index) => {
                self.members.remove(index);
                self.edited = true;
                true
            }
            None => false,
        }
    }

    /// The object as text, in slices: the original bytes where nothing was edited.
    pub fn to_segments(&self) -> Segments {
        if !self.edited {
            return Segments(vec![self.text.clone()]);
        }
        let mut out = Vec::with_capacity(8);
        let mut small = Vec::with_capacity(64);
        small.push(b'{');
        let mut run: Option<(u32, u32)> = None;
        let mut first = true;
        let close = |run: &mut Option<(u32, u32)>, small: &mut Vec<u8>, out: &mut Vec<Bytes>| {
            if let Some((start, end)) = run.take() {
                // Short runs are cheaper copied than carried as a slice of their own.
                if end - start <= 64 {
                    small.extend_from_slice(self.slice((start, end)));
                } else {
                    if !small.is_empty() {
                        out.push(Bytes::from(std::mem::take(small)));
                    }
                    out.push(self.text.slice(start as usize..end as usize));
                }
            }
        };
        let mut previous: Option<&Member> = None;
        for member in &self.members {
            let adjacent = match (&run, previous) {
                (Some(_), Some(previous)) if member.new.is_none() => {
                    self.adjacent(previous, member)
                }
                _ => false,
            };
            if adjacent {
                if let Some(run) = &mut run {
                    run.1 = member.value.1;
                }
            } else {
                close(&mut run, &mut small, &mut out);
                if !first {
                    small.push(b',');
                }
                match &member.new {
                    None => run = Some((member.key.0 - 1, member.value.1)),
                    Some((key, value)) => {
                        small.extend_from_slice(&serde_json::to_vec(key).unwrap_or_default());
                        small.push(b':');
                        if value.len() <= 256 {
                            small.extend_from_slice(value);
                        } else {
                            out.push(Bytes::from(std::mem::take(&mut small)));
                            out.push(value.clone());
                        }
                    }
                }
            }
            first = false;
            previous = Some(member);
        }
        close(&mut run, &mut small, &mut out);
        small.push(b'}');
        out.push(Bytes::from(small));
        Segments(out)
    }

    /// Whether only white space and one comma lie between two members of the original text.
    fn adjacent(&self, left: &Member, right: &Member) -> bool {
        left.new.is_none()
            && right.key.0 > left.value.1
            && self
                .slice((left.value.1, right.key.0 - 1))
                .iter()
                .all(|byte| matches!(byte, b',' | b' ' | b'\t' | b'\r' | b'\n'))
    }

    /// The object as one piece of text.
    pub fn to_bytes(&self) -> Bytes {
        self.to_segments().into_bytes()
    }
}

/// One JSON value inside a checked text.
#[derive(Debug, Clone, Copy)]
pub struct RawValue<'a> {
    text: &'a [u8],
    owner: &'a Bytes,
}

impl<'a> RawValue<'a> {
    /// The JSON text of the value.
    pub fn text(&self) -> &'a str {
        std::str::from_utf8(self.text).unwrap_or_default()
    }

    /// The JSON text as a slice that shares the received bytes.
    pub fn bytes(&self) -> Bytes {
        self.owner.slice_ref(self.text)
    }

    /// Where the value lies within the object's text: start and end offset.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = (self.text.as_ptr() as usize).saturating_sub(self.owner.as_ptr() as usize);
        start..start + self.text.len()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.text == b"null"
    }

    /// Whether it is an array.
    pub fn is_array(&self) -> bool {
        self.text.first() == Some(&b'[')
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.text.first() == Some(&b'{')
    }

    /// The string, unescaped; `None` if it is no string.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if memchr::memchr(b'\\', inner).is_none() {
            return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
        }
        serde_json::from_slice::<String>(self.text)
            .ok()
            .map(Cow::Owned)
    }

    /// The boolean; `None` if it is none.
    pub fn as_bool(&self) -> Option<bool> {
        match self.text {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// The non-negative integer; `None` if it is none or does not fit.
    pub fn as_u64(&self) -> Option<u64> {
        self.text().parse().ok()
    }

    /// The object, with its own keys checked for duplicates.
    pub fn object(&self) -> Result<RawObject, RawError> {
        RawObject::parse(self.bytes())
    }

    /// The elements of an array, in order; empty if it is no array.
    pub fn elements(&self) -> Vec<RawValue<'a>> {
        let mut scan = Scan {
            text: self.text,
            at: 0,
        };
        let mut elements = Vec::new();
        if scan.peek() == Some(b'[') {
            let outcome = scan.array(0, |start, end| {
                if let Some(text) = self.text.get(start..end) {
                    elements.push(RawValue {
                        text,
                        owner: self.owner,
                    });
                }
            });
            debug_assert!(outcome.is_ok(), "values are checked before");
        }
        elements
    }

    /// Decodes the value into a type of the caller's.
    pub fn decode<T: serde::Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.text)
    }
}

/// A text in pieces, so that a large body is sent on without a copy.
#[derive(Debug, Clone, Default)]
pub struct Segments(pub Vec<Bytes>);

impl Segments {
    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One contiguous piece; copies only when there are several.
    pub fn into_bytes(mut self) -> Bytes {
        if self.0.len() == 1
            && let Some(only) = self.0.pop()
        {
            return only;
        }
        self.0.concat().into()
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<u8>> for Segments {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![bytes.into()])
    }
}

/// The scanner. Recursion is bounded by [`MAX_DEPTH`].
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn expected(&self, what: &'static str) -> RawError {
        RawError {
            offset: self.at,
            fault: Fault::Syntax(what),
        }
    }

    fn fault(&self, fault: Fault) -> RawError {
        RawError {
            offset: self.at,
            fault,
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), RawError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(depth, |_| true),
            Some(b'[') => self.array(depth, |_, _| ()),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), RawError> {
        if self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.expected("a value"))
        }
    }

    fn digits(&mut self) -> Result<(), RawError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), RawError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Reads a string; says whether it has escapes.
    fn string(&mut self) -> Result<bool, RawError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let length = memchr::memchr2(b'"', b'\\', rest).ok_or(RawError {
                offset: self.text.len(),
                fault: Fault::Syntax("the end of the string"),
            })?;
            let plain = rest.get(..length).unwrap_or_default();
            // Without an early exit in the loop the compiler vectorises the check.
            if plain
                .iter()
                .fold(false, |found, byte| found | (*byte < 0x20))
            {
                self.at += plain
                    .iter()
                    .position(|byte| *byte < 0x20)
                    .unwrap_or_default();
                return Err(self.fault(Fault::ControlCharacter));
            }
            let stop = rest.get(length).copied();
            self.at += length + 1;
            if stop == Some(b'"') {
                return Ok(escaped);
            }
            escaped = true;
            self.escape()?;
        }
    }

    fn escape(&mut self) -> Result<(), RawError> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let start = self.at - 1;
                let lone = RawError {
                    offset: start,
                    fault: Fault::LoneSurrogate,
                };
                match self.code_unit()? {
                    0xD800..0xDC00 => {
                        if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
                            return Err(lone);
                        }
                        self.at += 1;
                        match self.code_unit()? {
                            0xDC00..0xE000 => Ok(()),
                            _ => Err(lone),
                        }
                    }
                    0xDC00..0xE000 => Err(lone),
                    _ => Ok(()),
                }
            }
            _ => Err(self.expected("an escape")),
        }
    }

    fn code_unit(&mut self) -> Result<u32, RawError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.expected("four hex digits"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(Member) -> bool,
    ) -> Result<(), RawError> {
        if depth >= MAX_DEPTH {
            return Err(self.fault(Fault::Depth));
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in quotes"));
            }
            let key_start = self.at + 1;
            let key_escaped = self.string()?;
            let key_end = self.at - 1;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.expected("`:`"));
            }
            self.at += 1;
            self.space();
            let start = self.at;
            self.value(depth + 1)?;
            // Offsets fit: the length was checked once, in `parse`.
            let more = member(Member {
                key: (key_start as u32, key_end as u32),
                value: (start as u32, self.at as u32),
                key_escaped,
                new: None,
            });
            if !more {
                return Err(self.fault(Fault::Members));
            }
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.expected("`,` or `}`")),
            }
        }
    }

    fn array(
        &mut self,
        depth: usize,
        mut element: impl FnMut(usize, usize),
    ) -> Result<(), RawError> {
        if depth >= MAX_DEPTH {
            return Err(self.fault(Fault::Depth));
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at;
            self.value(depth + 1)?;
            element(start, self.at);
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.expected("`,` or `]`")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &str) -> Fault {
        RawObject::parse(Bytes::copy_from_slice(text.as_bytes()))
            .unwrap_err()
            .fault
    }

    #[test]
    fn refuses_what_is_not_json_and_says_why() {
        assert!(matches!(fault(r#"{"a":NaN}"#), Fault::Syntax(_)));
        assert!(matches!(fault(r#"{"a":1} x"#), Fault::Syntax(_)));
        assert!(matches!(fault(r#"{"a":01}"#), Fault::Syntax(_)));
        assert!(matches!(fault(r#"{"a":1.}"#), Fault::Syntax(_)));
        assert!(matches!(fault(r#"{"a":1,}"#), Fault::Syntax(_)));
        assert!(matches!(fault(r#"{"a":"x"#), Fault::Syntax(_)));
        assert!(matches!(fault(""), Fault::Syntax(_)));
        assert_eq!(fault("[1]"), Fault::NotAnObject);
        assert_eq!(fault("{\"a\":\"\u{1}\"}"), Fault::ControlCharacter);
        assert_eq!(fault(r#"{"a":"\ud800"}"#), Fault::LoneSurrogate);
        assert_eq!(fault(r#"{"a":"\udc00\ud800"}"#), Fault::LoneSurrogate);
        assert_eq!(fault(r#"{"a":"\ud800\u0041"}"#), Fault::LoneSurrogate);
        assert_eq!(
            RawObject::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"))
                .unwrap_err()
                .fault,
            Fault::Utf8
        );
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(fault(&deep), Fault::Depth);
    }

    #[test]
    fn a_key_twice_is_refused_however_it_is_written() {
        assert_eq!(
            fault(r#"{"model":1,"model":2}"#),
            Fault::DuplicateKey("model".into())
        );
        assert_eq!(
            fault(r#"{"model":1,"mod\u0065l":2}"#),
            Fault::DuplicateKey("model".into())
        );
        let many: String = (0..100).map(|i| format!("\"k{i}\":1,")).collect();
        assert_eq!(
            fault(&format!("{{{many}\"k7\":1}}")),
            Fault::DuplicateKey("k7".into())
        );
    }

    #[test]
    fn edits_leave_every_other_byte_alone() {
        let text = r#"{ "model" : "a", "session_id":"s", "seed": 12345678901234567890 , "x":"\u00e9\/", "y":[1.0e5]}"#;
        let mut object = RawObject::parse(text.into()).unwrap();
        assert_eq!(object.to_bytes(), text);
        object.set_str("model", "b");
        assert!(object.remove("session_id"));
        object.set("stream_options", &b"{\"include_usage\":true}"[..]);
        assert_eq!(
            object.to_bytes(),
            r#"{"model":"b","seed": 12345678901234567890 , "x":"\u00e9\/", "y":[1.0e5],"stream_options":{"include_usage":true}}"#
        );
        assert_eq!(object.get("seed").unwrap().text(), "12345678901234567890");
        assert_eq!(object.get("x").unwrap().as_str().unwrap(), "é/");
    }

    #[test]
    fn a_large_value_is_not_copied() {
        let text: Bytes = format!(
            "{{\"model\":\"a\",\"messages\":\"{}\"}}",
            "x".repeat(100_000)
        )
        .into();
        let mut object = RawObject::parse(text.clone()).unwrap();
        object.set_str("model", "b");
        let segments = object.to_segments();
        let large = segments
            .0
            .iter()
            .find(|segment| segment.len() > 100_000)
            .unwrap();
        let range = text.as_ptr() as usize..text.as_ptr() as usize + text.len();
        assert!(range.contains(&(large.as_ptr() as usize)));
    }

    #[test]
    fn members_are_bounded_where_they_are_read() {
        let object = |count: usize| {
            let keys: Vec<String> = (0..count).map(|i| format!("\"k{i}\":{i}")).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert_eq!(
            RawObject::parse(object(MAX_MEMBERS).into()).unwrap().len(),
            MAX_MEMBERS
        );
        assert_eq!(fault(&object(1_000_000)), Fault::Members);
        // Inside, where nobody reads them, they are the provider's business.
        let inner = format!("{{\"logit_bias\":{}}}", object(100_000));
        assert!(RawObject::parse(inner.into()).is_ok());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn round_trips_any_object(map in prop::collection::btree_map(any::<String>(), json(), 0..8), pretty: bool) {
            let value = serde_json::Value::Object(map.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut object = RawObject::parse(text.clone().into()).unwrap();
            prop_assert_eq!(object.to_bytes(), text);
            for (key, expected) in value.as_object().unwrap() {
                let found: serde_json::Value = object.get(key).unwrap().decode().unwrap();
                prop_assert_eq!(&found, expected);
            }
            // Every edit gives the JSON that a map with the same edit gives.
            let mut map = value.as_object().unwrap().clone();
            if let Some(key) = map.keys().nth(map.len() / 2).cloned() {
                object.remove(&key);
                map.remove(&key);
            }
            object.set("added", &b"[1]"[..]);
            map.insert("added".into(), serde_json::json!([1]));
            let after: serde_json::Value = serde_json::from_slice(&object.to_bytes()).unwrap();
            prop_assert_eq!(after, serde_json::Value::Object(map));
        }

        #[test]
        fn agrees_with_serde_json_on_what_is_json(text in r#"[\{\}\[\]",:0-9eE.+\- tfnrualse\\]{0,40}"#) {
            let ours = RawObject::parse(text.clone().into());
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match ours {
                Ok(_) => prop_assert!(theirs.is_ok_and(|value| value.is_object())),
                Err(RawError { fault: Fault::Syntax(_), .. }) => prop_assert!(theirs.is_err()),
                Err(_) => {}
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RawObject::parse(bytes.into());
        }
    }
}
