#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn pieces(of: &[(u64, bool)]) -> Vec<Piece> {
    of.iter()
        .map(|&(tokens, begins)| Piece { tokens, begins })
        .collect()
}

fn plain(tokens: &[u64]) -> Vec<Piece> {
    tokens
        .iter()
        .map(|&tokens| Piece {
            tokens,
            begins: true,
        })
        .collect()
}

fn any_pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (0_u64..400, prop::bool::weighted(0.7))
        .prop_map(|(tokens, begins)| Piece { tokens, begins });
    prop::collection::vec(piece, 0..40)
}

/// Whether a cut separates nothing that belongs together.
fn is_whole(pieces: &[Piece], cut: usize) -> bool {
    cut == 0 || cut == pieces.len() || pieces[cut].begins
}

#[test]
fn nothing_is_cut_that_fits() {
    let short = plain(&[10, 20, 30]);
    let all = Selection {
        summary: false,
        from: 0,
    };
    assert_eq!(select(&short, None, 0, 60, 5), all);
    assert_eq!(select(&[], None, 0, 0, 5), all);
    let with_summary = Selection {
        summary: true,
        from: 0,
    };
    assert_eq!(select(&short, Some(5), 900, 65, 5), with_summary);
}

#[test]
fn fewer_messages_than_are_kept_are_cut_only_when_they_must() {
    let step_of = |room| Step {
        target: 10,
        room,
        keep_recent: 5,
    };
    let three = plain(&[100, 100, 100]);
    assert_eq!(step(&three, &step_of(300)), 0);
    assert_eq!(step(&three, &step_of(299)), 1);
    assert_eq!(step(&three, &step_of(99)), 3);
}

#[test]
fn one_giant_message_goes_whole() {
    let giant = plain(&[10_000]);
    assert_eq!(select(&giant, None, 0, 4_000, 5).from, 1);
    let among = plain(&[10, 10_000, 10, 20]);
    assert_eq!(select(&among, None, 0, 4_000, 5).from, 2);
    let newest = plain(&[10, 20, 10_000]);
    assert_eq!(select(&newest, None, 0, 4_000, 5).from, 3);
}

#[test]
fn results_without_a_call_are_one_group() {
    let results = pieces(&[(50, false), (50, false), (50, false)]);
    assert_eq!(newest_that_fit(&results, 100), 3, "all or none");
    assert_eq!(select(&results, None, 0, 100, 5).from, 3);
    assert_eq!(select(&results, None, 0, 150, 5).from, 0);
}

#[test]
fn a_call_stays_with_its_results() {
    let call = pieces(&[
        (10, true),
        (10, true),
        (500, false),
        (500, false),
        (10, true),
    ]);
    let keep_two = Step {
        target: 600,
        room: 2_000,
        keep_recent: 2,
    };
    // The second newest message is the last result: its call and the other result stay too.
    assert_eq!(step(&call, &keep_two), 1);
    assert_eq!(newest_that_fit(&call, 600), 4);
}

#[test]
fn a_summary_that_takes_the_room_goes_first() {
    let recent = plain(&[30, 30, 30]);
    let chosen = select(&recent, Some(80), 500, 100, 5);
    assert_eq!((chosen.summary, chosen.from), (false, 0));
    let chosen = select(&recent, Some(40), 500, 100, 1);
    assert!(chosen.summary && chosen.from > 0);
}

#[test]
fn memories_go_before_anything_else_does() {
    let bounds = Bounds {
        stored: 4_000,
        prompt: Some(1_000),
    };
    let at = |fixed, memories| room(&bounds, fixed, memories);
    assert_eq!(
        at(600, 100),
        Ok(Room {
            tokens: 300,
            memories: true
        })
    );
    assert_eq!(
        at(950, 100),
        Ok(Room {
            tokens: 50,
            memories: false
        })
    );
    assert_eq!(
        at(1_001, 0),
        Err(TooLong {
            needed: 1_001,
            bound: 1_000
        })
    );
    let unknown = Bounds {
        prompt: None,
        ..bounds
    };
    assert_eq!(
        room(&unknown, 1 << 40, 9),
        Ok(Room {
            tokens: 4_000,
            memories: true
        })
    );
}

proptest! {
    /// Whatever is chosen: within the bounds, groups whole.
    #[test]
    fn bounds_are_never_exceeded(
        stored in any_pieces(),
        summary in prop::option::of(0_u64..800),
        before in 0_u64..100_000,
        max_tokens in 0_u64..4_000,
        prompt in prop::option::of(0_u64..6_000),
        fixed in 0_u64..3_000,
        memories in 0_u64..500,
        keep_recent in 1_usize..10,
    ) {
        let bounds = Bounds { stored: max_tokens, prompt };
        match room(&bounds, fixed, memories) {
            Err(long) => prop_assert!(prompt.is_some_and(|prompt| fixed > prompt) && long.needed == fixed),
            Ok(left) => {
                let chosen = select(&stored, summary, before, left.tokens, keep_recent);
                let context = rest(&stored, chosen.from)
                    + if chosen.summary { summary.unwrap() } else { 0 };
                prop_assert!(context <= max_tokens);
                let sent = context + fixed + if left.memories { memories } else { 0 };
                prop_assert!(prompt.is_none_or(|prompt| sent <= prompt));
                prop_assert!(is_whole(&stored, chosen.from));
                // The newest group is sent whenever there is room for it.
                let newest = newest_that_fit(&stored, left.tokens);
                let beside = summary.filter(|_| chosen.summary).unwrap_or(0);
                if newest < stored.len() && newest_that_fit(&stored, left.tokens - beside) < stored.len() {
                    prop_assert!(chosen.from < stored.len());
                }
            }
        }
    }

    /// A step stays within its room, reaches its target unless recent messages are in the way, and keeps these
    /// whenever they fit.
    #[test]
    fn a_step_reaches_its_target_and_keeps_what_is_recent(
        stored in any_pieces(),
        target in 0_u64..2_000,
        slack in 0_u64..2_000,
        keep_recent in 1_usize..10,
    ) {
        let how = Step { target, room: target + slack, keep_recent };
        let cut = step(&stored, &how);
        let recent = recent_from(&stored, keep_recent);
        prop_assert!(is_whole(&stored, cut));
        prop_assert!(rest(&stored, cut) <= how.room);
        if rest(&stored, recent) <= how.room {
            prop_assert!(cut <= recent);
            prop_assert!(rest(&stored, cut) <= target || cut == recent);
        }
        // No smaller step would have done.
        if let Some(before) = (0..cut).rev().find(|at| is_whole(&stored, *at)) {
            prop_assert!(rest(&stored, before) > target);
        }
    }

    /// More room never means fewer messages of a plain cut.
    #[test]
    fn more_room_keeps_more(stored in any_pieces(), small in 0_u64..4_000, more in 0_u64..4_000) {
        prop_assert!(newest_that_fit(&stored, small + more) <= newest_that_fit(&stored, small));
    }

    /// As a conversation grows, the cut only moves forward, and seldom: the beginning of the prompt stays the same
    /// while about half of the room fills up.
    #[test]
    fn the_cut_stays_put_between_steps(
        sizes in prop::collection::vec(1_u64..100, 50..300),
        room in 1_000_u64..3_000,
    ) {
        let (mut moves, mut last) = (0_u64, 0);
        for end in 1..=sizes.len() {
            let stored = plain(&sizes[..end]);
            let chosen = select(&stored, None, 0, room, 5);
            prop_assert!(chosen.from >= last, "a message came back");
            moves += u64::from(chosen.from > last);
            last = chosen.from;
        }
        let all: u64 = sizes.iter().sum();
        prop_assert!(moves <= all.div_ceil(room / 2) + 1, "{moves} cuts in {all} tokens, room {room}");
    }

    /// The cut is the same however much of the old part has been loaded.
    #[test]
    fn the_cut_does_not_depend_on_what_is_loaded(
        sizes in prop::collection::vec(1_u64..100, 60..200),
        gone in 0_usize..20,
    ) {
        let all = plain(&sizes);
        let before: u64 = sizes[..gone].iter().sum();
        let whole = select(&all, None, 0, 1_000, 5);
        let part = select(&all[gone..], None, before, 1_000, 5);
        prop_assume!(whole.from >= gone && total(&all[gone..]) > 1_000);
        prop_assert_eq!(whole.from, part.from + gone);
    }
}
