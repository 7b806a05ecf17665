//! The scanner under `raw.rs`: one linear pass over a JSON text that checks all of it and says where things are.
//!
//! # Source
//! RFC 8259 for the grammar. Lone surrogates are refused, which the grammar allows: no decoder agrees on them.

use std::fmt;

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

/// Where a member lies in the text: its key between the quotes, then its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub key: (u32, u32),
    pub value: (u32, u32),
    pub key_escaped: bool,
}

/// The scanner. Recursion is bounded by [`MAX_DEPTH`].
pub(super) struct Scan<'a> {
    pub text: &'a [u8],
    pub at: usize,
}

impl Scan<'_> {
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub fn expected(&self, what: &'static str) -> RawError {
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

    pub fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    pub fn value(&mut self, depth: usize) -> Result<(), RawError> {
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

    pub fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(Place) -> bool,
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
            let more = member(Place {
                key: (key_start as u32, key_end as u32),
                value: (start as u32, self.at as u32),
                key_escaped,
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

    pub fn array(
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
