//! How much of a conversation a model is sent, as arithmetic: no IO, no clock, no JSON.
//!
//! Two bounds hold. `stored` bounds what of the stored conversation is sent: summary and messages. `prompt` bounds the
//! whole prompt by the model's window. Stored messages are cut at the old end and only where a [`Piece`] says that one
//! may cut, so that a tool call stays with its results.
//!
//! Cuts are made in steps: much is left out at once and then nothing for a while, because every cut changes the
//! beginning of the prompt, and with it what the provider has in its cache.

/// The bounds of a prompt, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most of the stored conversation, its summary included (`session.max_tokens`).
    pub stored: u64,
    /// Most of the whole prompt: the model's window without what is reserved for the answer. `None`: not known.
    pub prompt: Option<u64>,
}

/// A stored message, as far as cutting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its tokens.
    pub tokens: u64,
    /// Whether the conversation may begin with it: not with the result of a tool call that lies before.
    pub begins: bool,
}

/// What is left for the stored conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Tokens for summary and stored messages.
    pub tokens: u64,
    /// Whether the memories fit as well; they are the first to go.
    pub memories: bool,
}

/// What cannot be left out does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Its tokens.
    pub needed: u64,
    /// The bound of the prompt.
    pub bound: u64,
}

/// What of the stored conversation is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Whether the summary is.
    pub summary: bool,
    /// The first message that is.
    pub from: usize,
}

/// How far a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is to be left of the messages.
    pub target: u64,
    /// What may be left of them at most.
    pub room: u64,
    /// How many of the newest messages stay, as long as they fit into `room`.
    pub keep_recent: usize,
}

/// What the bounds leave for the stored conversation, beside what is sent anyway (`fixed`: the system prompt, the
/// tools, the new messages) and the memories.
///
/// # Errors
/// [`TooLong`] if what is sent anyway does not fit by itself.
pub fn room(bounds: &Bounds, fixed: u64, memories: u64) -> Result<Room, TooLong> {
    let Some(bound) = bounds.prompt else {
        return Ok(Room {
            tokens: bounds.stored,
            memories: true,
        });
    };
    let Some(left) = bound.checked_sub(fixed) else {
        return Err(TooLong {
            needed: fixed,
            bound,
        });
    };
    // Memories give way to the conversation only where nothing of it would be left otherwise.
    let beside = left.saturating_sub(memories);
    let fits = memories <= left && (beside > 0 || memories == 0);
    Ok(Room {
        tokens: bounds.stored.min(if fits { beside } else { left }),
        memories: fits,
    })
}

/// Tokens of messages.
pub fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.tokens).sum()
}

/// Where to cut so that the newest messages have at most `limit` tokens and as many of them as possible are left;
/// the number of messages if not even the newest group fits.
pub fn newest_that_fit(pieces: &[Piece], limit: u64) -> usize {
    let mut left: u64 = 0;
    let mut cut = pieces.len();
    for (at, piece) in pieces.iter().enumerate().rev() {
        left = left.saturating_add(piece.tokens);
        if left > limit {
            break;
        }
        // What nothing lies before is no cut.
        if piece.begins || at == 0 {
            cut = at;
        }
    }
    cut
}

/// Where a step cuts: down to the target if the recent messages allow it, else just before them; through them where
/// they do not fit either.
pub fn step(pieces: &[Piece], step: &Step) -> usize {
    let cut = newest_that_fit(pieces, step.target).min(recent_from(pieces, step.keep_recent));
    if rest(pieces, cut) <= step.room {
        cut
    } else {
        newest_that_fit(pieces, step.room)
    }
}

/// What is sent where nothing could be compressed: all, or the newest that fit.
///
/// `before`: tokens of the conversation before the first piece. The cut depends on the position in the whole
/// conversation, so that it stays where it is from turn to turn until half of the room is used up again.
pub fn select(
    pieces: &[Piece],
    summary: Option<u64>,
    before: u64,
    room: u64,
    keep_recent: usize,
) -> Selection {
    let summary_tokens = summary.unwrap_or(0);
    let all = total(pieces);
    if summary_tokens.saturating_add(all) <= room {
        return Selection {
            summary: summary.is_some(),
            from: 0,
        };
    }
    // A summary that takes most of the room is worth less than the messages in its place.
    let keeps_summary = summary.is_some() && summary_tokens <= room / 2;
    let room = if keeps_summary {
        room - summary_tokens
    } else {
        room
    };
    Selection {
        summary: keeps_summary,
        from: steady_cut(pieces, before, room, keep_recent),
    }
}

fn steady_cut(pieces: &[Piece], before: u64, room: u64, keep_recent: usize) -> usize {
    let all = total(pieces);
    if all <= room {
        return 0;
    }
    let stride = (room / 2).max(1);
    let out = (before.saturating_add(all) - room)
        .div_ceil(stride)
        .saturating_mul(stride);
    let mut position = before;
    let mut cut = pieces.len();
    for (at, piece) in pieces.iter().enumerate() {
        if piece.begins && position >= out {
            cut = at;
            break;
        }
        position = position.saturating_add(piece.tokens);
    }
    let recent = recent_from(pieces, keep_recent);
    if recent < cut && rest(pieces, recent) <= room {
        return recent;
    }
    if cut == pieces.len() {
        return newest_that_fit(pieces, room);
    }
    cut
}

/// Where the last `keep_recent` messages begin, with all of the group that the first of them is in.
pub fn recent_from(pieces: &[Piece], keep_recent: usize) -> usize {
    let mut from = pieces.len().saturating_sub(keep_recent);
    while from > 0 && pieces.get(from).is_some_and(|piece| !piece.begins) {
        from -= 1;
    }
    from
}

fn rest(pieces: &[Piece], from: usize) -> u64 {
    pieces.get(from..).map_or(0, total)
}

#[cfg(test)]
mod tests;
