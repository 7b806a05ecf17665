//! One key, and what it does.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret_file::LENGTH;

/// Bytes of a nonce.
const NONCE: usize = 24;
/// Bytes that sealing adds: the nonce and the tag.
pub(super) const OVERHEAD: usize = NONCE + 16;
/// Characters of a key's id.
pub(super) const ID: usize = 8;

/// A key that seals and opens.
///
/// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), with the nonce made from place and text by HMAC-SHA-256 under a key of
/// its own, as SIV modes do (RFC 5297, RFC 8452): the same text at the same place gives the same bytes, so that a write
/// that is repeated stays the same write, and no bad source of randomness can repeat a nonce.
#[derive(Clone)]
pub(crate) struct SealKey {
    id: String,
    cipher: XChaCha20Poly1305,
    nonces: Hmac<Sha256>,
}

impl SealKey {
    /// Makes the key of 32 secret bytes.
    pub fn new(secret: &[u8; LENGTH]) -> Self {
        let derived = |purpose: &str| -> [u8; LENGTH] {
            let mut mac = mac_of(secret);
            mac.update(purpose.as_bytes());
            mac.finalize().into_bytes().into()
        };
        let id = derived("lyss seal id")
            .iter()
            .take(ID / 2)
            .fold(String::with_capacity(ID), |id, byte| {
                id + &format!("{byte:02x}")
            });
        Self {
            id,
            cipher: XChaCha20Poly1305::new(&derived("lyss seal text").into()),
            nonces: mac_of(&derived("lyss seal nonce")),
        }
    }

    /// Reads a key as it stands in a configuration.
    ///
    /// # Errors
    /// Says what is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let base64 = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let bytes = base64
            .decode(text.trim())
            .map_err(|_| "is not base64".to_owned())?;
        let secret: [u8; LENGTH] = bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| format!("has {} bytes, not {LENGTH}", bytes.len()))?;
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err("is a value that everybody can guess".to_owned());
        }
        Ok(Self::new(&secret))
    }

    /// What the key is called: it tells nothing of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Nonce, text and tag. `None` for more than the cipher takes, which is 256 GiB.
    pub(super) fn seal(&self, place: &[u8], clear: &[u8]) -> Option<Vec<u8>> {
        let nonce = self.nonce(place, clear);
        let payload = Payload {
            msg: clear,
            aad: place,
        };
        let text = self.cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&nonce[..], &text].concat())
    }

    /// What was sealed at a place; `None` if it was not, or not with this key.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload {
            msg: text,
            aad: place,
        };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).ok()
    }

    fn nonce(&self, place: &[u8], clear: &[u8]) -> [u8; NONCE] {
        let mut mac = self.nonces.clone();
        mac.update(&(place.len() as u64).to_le_bytes());
        mac.update(place);
        mac.update(clear);
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        let mut nonce = [0; NONCE];
        nonce.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
        nonce
    }
}

fn mac_of(key: &[u8; LENGTH]) -> Hmac<Sha256> {
    // HMAC takes keys of 64 bytes as they are, and shorter ones padded (RFC 2104, section 2).
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new(&block.into())
}

/// Without the key.
impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealKey").field(&self.id).finish()
    }
}
