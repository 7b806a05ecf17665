//! What is said and remembered, sealed: turns on their way into the memory, and the built-in memory's rows.

use super::{Place, SealRing, Unreadable, is_sealed};
use crate::memory::SpokenTurn;

/// Seals what goes into the memory, and opens what comes out. What was stored in the clear before is read as it is.
#[derive(Debug, Clone)]
pub(crate) struct SealedMemories {
    ring: SealRing,
    /// Whether new texts are sealed, or only old ones opened.
    seals: bool,
}

impl SealedMemories {
    /// Seals with a ring, or with `seals: false` only opens.
    pub fn new(ring: SealRing, seals: bool) -> Self {
        Self { ring, seals }
    }

    /// A turn as it waits in the outbox.
    pub fn seal_turn(&self, turn: &SpokenTurn) -> SpokenTurn {
        let mut turn = turn.clone();
        if self.seals {
            let place = spoken(&turn);
            for message in &mut turn.messages {
                message.content = self.ring.seal(&place, message.content.as_bytes());
            }
        }
        turn
    }

    /// The turn again.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open_turn(&self, turn: &mut SpokenTurn) -> Result<(), Unreadable> {
        let place = spoken(turn);
        for message in &mut turn.messages {
            if is_sealed(message.content.as_bytes()) {
                let content = self.ring.open(&place, message.content.as_bytes())?;
                message.content = String::from_utf8(content).map_err(|_| Unreadable::Altered)?;
            }
        }
        Ok(())
    }

    /// The text and the embedding of a memory as they are stored.
    pub fn seal(&self, of: Origin<'_>, text: String, embedding: Vec<u8>) -> (String, Vec<u8>) {
        if !self.seals {
            return (text, embedding);
        }
        (
            self.ring.seal(&of.place("text"), text.as_bytes()),
            // An embedding tells much of its text.
            self.ring.seal(&of.place("embedding"), &embedding).into(),
        )
    }

    /// They again.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open(
        &self,
        of: Origin<'_>,
        mut text: String,
        mut embedding: Vec<u8>,
    ) -> Result<(String, Vec<u8>), Unreadable> {
        if is_sealed(text.as_bytes()) {
            let opened = self.ring.open(&of.place("text"), text.as_bytes())?;
            text = String::from_utf8(opened).map_err(|_| Unreadable::Altered)?;
        }
        if is_sealed(&embedding) {
            embedding = self.ring.open(&of.place("embedding"), &embedding)?;
        }
        Ok((text, embedding))
    }
}

/// Whose memory it is, and of which turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub user_id: &'a str,
    pub request_id: &'a str,
}

impl Origin<'_> {
    fn place(self, what: &str) -> Place {
        Place::new(&[
            b"memory",
            what.as_bytes(),
            self.user_id.as_bytes(),
            self.request_id.as_bytes(),
        ])
    }
}

fn spoken(turn: &SpokenTurn) -> Place {
    let of = Origin {
        user_id: &turn.user_id,
        request_id: &turn.request_id,
    };
    of.place("turn")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{memory::Spoken, seal::SealKey};

    fn memories(key: u8, seals: bool) -> SealedMemories {
        SealedMemories::new(SealRing::new(SealKey::new(&[key; 32]), vec![]), seals)
    }

    #[test]
    fn a_turn_is_sealed_and_opened() {
        let turn = SpokenTurn {
            request_id: "r1".into(),
            user_id: "u1".into(),
            session_id: None,
            messages: vec![Spoken {
                role: "user".into(),
                content: "SECRET".into(),
            }],
        };
        assert_eq!(memories(1, false).seal_turn(&turn), turn);
        let mut sealed = memories(1, true).seal_turn(&turn);
        assert!(!format!("{sealed:?}").contains("SECRET"));
        assert!(memories(2, true).open_turn(&mut sealed.clone()).is_err());
        let mut moved = SpokenTurn {
            user_id: "u2".into(),
            ..sealed.clone()
        };
        assert_eq!(
            memories(1, true).open_turn(&mut moved),
            Err(Unreadable::Altered)
        );
        memories(1, false).open_turn(&mut sealed).unwrap();
        assert_eq!(sealed, turn);
    }

    #[test]
    fn text_and_embedding_are_sealed_and_opened() {
        let of = Origin {
            user_id: "u1",
            request_id: "r1",
        };
        let memory = || ("SECRET".to_owned(), vec![1, 2, 3]);
        let (text, embedding) = memory();
        let (text, embedding) = memories(1, true).seal(of, text, embedding);
        assert!(is_sealed(text.as_bytes()) && is_sealed(&embedding));
        let opened = memories(1, true).open(of, text.clone(), embedding.clone());
        assert_eq!(opened.unwrap(), memory());
        assert!(
            memories(1, true).open(of, text, vec![1]).is_ok(),
            "clear and sealed"
        );
        let swapped = String::from_utf8(embedding).unwrap();
        assert!(memories(1, true).open(of, swapped, vec![]).is_err());
    }
}
