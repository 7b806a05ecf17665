//! A record in a segment: `[u32 length][u32 crc32][body]`, little endian. Length and checksum are the body's.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes before the body.
pub(crate) const HEADER: usize = 8;
/// A longer record is not written, and a longer length not believed.
pub(crate) const MAX_RECORD: usize = 1 << 20;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// What the start of a buffer is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// The body of a whole record; the record is [`HEADER`] bytes longer.
    Body(&'a [u8]),
    /// So many bytes must be there to tell.
    Incomplete(usize),
    /// No record.
    Corrupt,
}

/// Writes the header of a record whose first [`HEADER`] bytes were left free for it.
///
/// # Errors
/// If the body is longer than [`MAX_RECORD`], or the header was not left free.
pub(crate) fn seal(record: &mut [u8]) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the record is over 1 MiB");
    let Some((header, body)) = record.split_first_chunk_mut::<HEADER>() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if body.len() > MAX_RECORD {
        return Err(too_long());
    }
    let length = u32::try_from(body.len()).map_err(|_| too_long())?;
    let (length_bytes, checksum_bytes) = header.split_at_mut(4);
    length_bytes.copy_from_slice(&length.to_le_bytes());
    checksum_bytes.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    Ok(())
}

/// Reads the record at the start of a buffer. Never panics, whatever the buffer holds.
pub(crate) fn parse(buffer: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Parsed::Incomplete(HEADER);
    };
    let Some((checksum, rest)) = rest.split_first_chunk::<4>() else {
        return Parsed::Incomplete(HEADER);
    };
    let length = u32::from_le_bytes(*length) as usize;
    // An empty body is no record: that is how a region of zeroes looks, which a crash may leave.
    if length == 0 || length > MAX_RECORD {
        return Parsed::Corrupt;
    }
    match rest.get(..length) {
        None => Parsed::Incomplete(HEADER + length),
        Some(body) if crc32fast::hash(body) == u32::from_le_bytes(*checksum) => Parsed::Body(body),
        Some(_) => Parsed::Corrupt,
    }
}

/// What a reader says to a record.
pub(crate) enum Next {
    /// The next one, please.
    More,
    /// That is enough for now.
    Enough,
    /// This is none of its records.
    Corrupt,
}

/// How reading went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Everything was read.
    AtEnd,
    /// The reader had enough.
    Enough,
    /// What lies at the offset is no record.
    Damaged,
}

/// Hands the records between `offset` and `end` of a segment to `take`, and moves the offset behind those taken. A
/// record that is torn at the end is left out: that is what a dying process leaves, and it was never acknowledged.
pub(crate) fn read(
    path: &Path,
    offset: &mut u64,
    end: u64,
    mut take: impl FnMut(&[u8]) -> Next,
) -> io::Result<Stopped> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(*offset))?;
    let mut buffer = Vec::new();
    let mut start = 0;
    loop {
        match parse(buffer.get(start..).unwrap_or_default()) {
            Parsed::Body(body) => {
                let length = HEADER + body.len();
                let next = take(body);
                if matches!(next, Next::Corrupt) {
                    return Ok(Stopped::Damaged);
                }
                start += length;
                *offset += length as u64;
                if matches!(next, Next::Enough) {
                    return Ok(Stopped::Enough);
                }
            }
            Parsed::Incomplete(needed) => {
                buffer.drain(..start);
                start = 0;
                let held = buffer.len() as u64;
                let left = end.saturating_sub(*offset + held);
                let wanted = left.min(needed.max(CHUNK) as u64);
                if file.by_ref().take(wanted).read_to_end(&mut buffer)? > 0 {
                    continue;
                }
                if held > 0 {
                    tracing::warn!(
                        segment = %path.display(), offset = *offset, bytes = held,
                        "spool segment ends in a torn record"
                    );
                }
                *offset = end;
                return Ok(Stopped::AtEnd);
            }
            Parsed::Corrupt => return Ok(Stopped::Damaged),
        }
    }
}
