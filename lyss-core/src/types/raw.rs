//! JSON read shallowly and kept as the bytes that came.
//!
//! A [`RawObject`] knows where the members of one object are; their values stay slices of the received bytes, so
//! numbers, key order, unknown fields and escapes travel untouched. [`RawObject::parse`] is one linear scan that
//! checks the whole text: grammar (RFC 8259), depth, control characters, lone surrogates, and that no key of the
//! object itself occurs twice (checker and provider must read the same).

use std::{borrow::Cow, collections::HashSet};

use bytes::Bytes;

pub use super::scan::{Fault, MAX_DEPTH, MAX_MEMBERS, RawError};
use super::scan::{Place, Scan};

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
    /// Where it lies in `text`; unused when `new` is set.
    place: Place,
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
        scan.object(0, |place| {
            members.push(Member { place, new: None });
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

    /// The text that was parsed, whatever has been edited since.
    pub fn received(&self) -> &Bytes {
        &self.text
    }

    fn refuse_duplicates(&self) -> Result<(), RawError> {
        let fault = |index: usize, key: &str| RawError {
            offset: self
                .members
                .get(index)
                .map_or(0, |member| member.place.key.0 as usize),
            fault: Fault::DuplicateKey(key.chars().take(100).collect()),
        };
        if self.members.len() <= 16 {
            for (index, member) in self.members.iter().enumerate() {
                let mut earlier = self.members.iter().take(index);
                if earlier.any(|earlier| self.same_key(earlier, member)) {
                    return Err(fault(index, &self.key(member)));
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
                let inner = self.slice(member.place.key);
                if member.place.key_escaped {
                    let quoted = (member.place.key.0 - 1, member.place.key.1 + 1);
                    serde_json::from_slice::<String>(self.slice(quoted))
                        .unwrap_or_default()
                        .into()
                } else {
                    Cow::Borrowed(std::str::from_utf8(inner).unwrap_or_default())
                }
            }
        }
    }

    fn same_key(&self, left: &Member, right: &Member) -> bool {
        match (&left.new, &right.new) {
            (None, None) if !left.place.key_escaped && !right.place.key_escaped => {
                self.slice(left.place.key) == self.slice(right.place.key)
            }
            _ => self.key(left) == self.key(right),
        }
    }

    fn find(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|member| match &member.new {
            None if !member.place.key_escaped => self.slice(member.place.key) == key.as_bytes(),
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
                text: self.slice(member.place.value),
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
                    text: self.slice(member.place.value),
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
            place: Place {
                key: (0, 0),
                value: (0, 0),
                key_escaped: false,
            },
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

    /// Whether a member has been set since the text was parsed.
    pub(crate) fn is_changed(&self) -> bool {
        self.members.iter().any(|member| member.new.is_some())
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
                    run.1 = member.place.value.1;
                }
            } else {
                close(&mut run, &mut small, &mut out);
                if !first {
                    small.push(b',');
                }
                match &member.new {
                    None => run = Some((member.place.key.0 - 1, member.place.value.1)),
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
            && right.place.key.0 > left.place.value.1
            && self
                .slice((left.place.value.1, right.place.key.0 - 1))
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

    /// Whether it is an array without an element.
    pub fn is_empty_array(&self) -> bool {
        let inner = self.text.strip_prefix(b"[").unwrap_or_default();
        inner.trim_ascii_start().starts_with(b"]")
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

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
