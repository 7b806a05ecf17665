//! Parts of a message: texts, and what is no text.
//!
//! # Source
//! OpenAI's guide "Images and vision", section on costs, as of November 2026: `detail: low` is a base price; otherwise
//! the image is scaled into 2048 × 2048, then to 768 on its shorter side, and each tile of 512 × 512 it needs is
//! added. Smaller models count patches of 32 × 32, at most 1,536, times a factor. User audio is 10 tokens a second.
//! Files are ours: nothing is published.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{chat, family::Family};

/// Tiles of an image of unknown size: those of 1024 × 1024, as of most photographs.
const TILES: u64 = 4;
/// Patches of an image of unknown size.
const PATCHES: u64 = 1024;
/// The most patches of an image.
const PATCHES_MOST: u64 = 1536;
/// Tokens of a second of audio.
const AUDIO_SECOND: u64 = 10;
/// Bytes of a second of WAV (16 kHz, 16 bit, mono) and of MP3 (128 kbit/s).
const WAV_SECOND: u64 = 32_000;
const MP3_SECOND: u64 = 16_000;
/// Bytes of a file that make a token: its text and what surrounds it are not known here.
const FILE_BYTES: u64 = 8;
/// Tokens of a file that is named only by its id: about two pages.
const FILE: u64 = 2_000;

/// How a model counts images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ImageRule {
    /// Base price and price of a tile.
    Tiles(u64, u64),
    /// Tokens of a hundred patches.
    Patches(u64),
}

impl ImageRule {
    /// The rule of a model, by its bare name. Models of others count as GPT-4o; their estimate is corrected.
    pub fn of(name: &str) -> Self {
        let begins = |known: &[&str]| known.iter().any(|known| name.starts_with(known));
        if begins(&["gpt-4.1-mini", "gpt-5-mini"]) {
            Self::Patches(162)
        } else if begins(&["gpt-4.1-nano", "gpt-5-nano"]) {
            Self::Patches(246)
        } else if begins(&["o4-mini"]) {
            Self::Patches(172)
        } else if begins(&["gpt-4o-mini"]) {
            Self::Tiles(2833, 5667)
        } else if begins(&["gpt-5"]) {
            Self::Tiles(70, 140)
        } else if begins(&["o1", "o3"]) {
            Self::Tiles(75, 150)
        } else {
            Self::Tiles(85, 170)
        }
    }

    fn tokens(self, low: bool, size: Option<(u32, u32)>) -> u64 {
        match self {
            Self::Tiles(base, _) if low => base,
            Self::Tiles(base, tile) => base + tile * size.map_or(TILES, tiles),
            Self::Patches(hundred) => (size.map_or(PATCHES, patches) * hundred).div_ceil(100),
        }
    }
}

/// Tiles of 512 × 512 that an image is cut into.
fn tiles((width, height): (u32, u32)) -> u64 {
    let (mut width, mut height) = (f64::from(width.max(1)), f64::from(height.max(1)));
    let fit = (2048.0 / width.max(height)).min(1.0);
    (width, height) = (width * fit, height * fit);
    let shrink = (768.0 / width.min(height)).min(1.0);
    let side = |length: f64| (length * shrink / 512.0).ceil().max(1.0) as u64;
    side(width) * side(height)
}

/// Patches of 32 × 32 that an image is cut into, at most [`PATCHES_MOST`].
fn patches((width, height): (u32, u32)) -> u64 {
    let patches = u64::from(width.div_ceil(32)) * u64::from(height.div_ceil(32));
    patches.clamp(1, PATCHES_MOST)
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input_audio: Option<Audio<'a>>,
    #[serde(borrow, default)]
    file: Option<File<'a>>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Audio<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    format: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    file_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    filename: Option<&'a RawValue>,
}

/// Tokens of one part of a message's content. A part of a kind that is not known costs its JSON text.
pub(super) fn part(family: &Family, json: &RawValue) -> u64 {
    let Ok(part) = serde_json::from_str::<Part<'_>>(json.get()) else {
        return chat::text(family, Some(json));
    };
    if part.text.is_some() || part.refusal.is_some() {
        return chat::text(family, part.text) + chat::text(family, part.refusal);
    }
    if let Some(image) = part.image_url {
        return image_tokens(family, image);
    }
    if let Some(audio) = part.input_audio {
        let second = match chat::string(audio.format).as_deref() {
            Some("wav") => WAV_SECOND,
            _ => MP3_SECOND,
        };
        return (decoded(audio.data) * AUDIO_SECOND).div_ceil(second);
    }
    if let Some(file) = part.file {
        let content = match file.file_data {
            Some(data) => decoded(Some(data)).div_ceil(FILE_BYTES),
            None => FILE,
        };
        return content + chat::text(family, file.filename);
    }
    family.text(json.get())
}

fn image_tokens(family: &Family, json: &RawValue) -> u64 {
    // Some services take the URL itself for the object around it.
    let image = serde_json::from_str(json.get()).unwrap_or(Image {
        url: Some(json),
        detail: None,
    });
    let low = chat::string(image.detail).as_deref() == Some("low");
    let size = chat::string(image.url).and_then(|url| size_of(&url));
    family.image.tokens(low, size)
}

/// Bytes that a base64 string stands for.
fn decoded(data: Option<&RawValue>) -> u64 {
    data.map_or(0, |data| data.get().len() as u64 / 4 * 3)
}

/// Width and height of an image in a `data:` URL, where its first bytes tell them: PNG, GIF, JPEG.
fn size_of(url: &str) -> Option<(u32, u32)> {
    /// As much of a JPEG is looked at: its frame header comes after the metadata.
    const LOOKED_AT: usize = 64 * 1024;
    use base64::Engine as _;
    let (head, data) = url.split_once(',')?;
    if !head.starts_with("data:image/") || !head.ends_with(";base64") {
        return None;
    }
    let data = data.get(..data.len().min(LOOKED_AT) / 4 * 4)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(data)
        .ok()?;
    let read = |at: usize, size: usize, big: bool| {
        let bytes = bytes.get(at..at + size)?;
        let add = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        Some(match big {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        })
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some((read(16, 4, true)?, read(20, 4, true)?));
    }
    if bytes.starts_with(b"GIF8") {
        return Some((read(6, 2, false)?, read(8, 2, false)?));
    }
    if bytes.starts_with(b"\xFF\xD8") {
        let mut at = 2;
        while bytes.get(at) == Some(&0xFF) {
            let marker = *bytes.get(at + 1)?;
            // The frame headers (SOF0 to SOF15) but for DHT, JPG and DAC, which share their range.
            if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
                return Some((read(at + 7, 2, true)?, read(at + 5, 2, true)?));
            }
            at += 2 + read(at + 2, 2, true)? as usize;
        }
    }
    None
}
