//! Where a conversation may be cut: never between a tool call and its results.

use std::collections::HashMap;

use bytes::Bytes;

use crate::types::RawObject;

/// Where messages may begin, and which stored ones belong to the turn that comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// For each stored message, whether a conversation may begin with it.
    pub begins: Vec<bool>,
    /// The first stored message that cannot be parted from the new ones: a call whose results they bring. The number
    /// of stored messages if there is none.
    pub open_from: usize,
}

/// What of a message decides.
#[derive(Default)]
struct Outline {
    /// Whether it is a tool's result.
    is_result: bool,
    /// The ids of the calls it makes.
    calls: Vec<String>,
    /// The id of the call it answers.
    answers: Option<String>,
}

impl Groups {
    /// The groups of stored messages that are followed by new ones.
    ///
    /// A result belongs to the message before it, and to the last call of its id with all between. Before anything new
    /// is known (`new` is empty), a call at the end counts as open.
    pub fn of<'a>(
        stored: impl IntoIterator<Item = &'a Bytes>,
        new: impl IntoIterator<Item = &'a Bytes>,
    ) -> Self {
        let mut outlines: Vec<Outline> = stored.into_iter().map(Outline::read).collect();
        let count = outlines.len();
        outlines.extend(new.into_iter().map(Outline::read));
        let awaits_results = outlines.len() == count
            && outlines
                .last()
                .is_some_and(|last| !last.calls.is_empty() || last.is_result);

        // How far each message holds on to what follows it.
        let mut reach: Vec<usize> = (0..outlines.len()).collect();
        let mut calls: HashMap<&str, usize> = HashMap::new();
        for (at, outline) in outlines.iter().enumerate() {
            let before = at.saturating_sub(1);
            if outline.is_result
                && let Some(place) = reach.get_mut(before)
            {
                *place = (*place).max(at);
            }
            let call = outline.answers.as_deref().and_then(|id| calls.get(id));
            if let Some(place) = call.and_then(|call| reach.get_mut(*call)) {
                *place = (*place).max(at);
            }
            for id in &outline.calls {
                calls.insert(id, at);
            }
        }
        let mut begins = Vec::with_capacity(count);
        let mut furthest = 0;
        let mut last_begin = 0;
        for (at, reach) in reach.iter().take(count).enumerate() {
            let free = at == 0 || furthest < at;
            begins.push(free);
            if free {
                last_begin = at;
            }
            furthest = furthest.max(*reach);
        }
        let open = count > 0 && (furthest >= count || awaits_results);
        Self {
            begins,
            open_from: if open { last_begin } else { count },
        }
    }
}

impl Outline {
    /// A message that cannot be read belongs to nothing.
    fn read(json: &Bytes) -> Self {
        let Ok(message) = RawObject::parse(json.clone()) else {
            return Self::default();
        };
        let text = |object: &RawObject, key| {
            object
                .get_some(key)
                .and_then(|value| value.as_str().map(|text| text.into_owned()))
        };
        let role = text(&message, "role").unwrap_or_default();
        let calls = message
            .get_some("tool_calls")
            .map(|calls| calls.elements())
            .unwrap_or_default();
        let mut ids: Vec<String> = calls
            .iter()
            .filter_map(|call| call.object().ok())
            .map(|call| text(&call, "id").unwrap_or_default())
            .collect();
        if message.get_some("function_call").is_some() {
            ids.push(String::new());
        }
        Self {
            is_result: role == "tool" || role == "function",
            calls: ids,
            answers: text(&message, "tool_call_id").filter(|id| !id.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn messages(texts: &[&str]) -> Vec<Bytes> {
        texts
            .iter()
            .map(|text| {
                let (role, rest) = text.split_once(' ').unwrap_or((text, ""));
                match role {
                    "call" => {
                        let calls: Vec<_> = rest
                            .split(' ')
                            .map(|id| serde_json::json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}))
                            .collect();
                        serde_json::json!({"role": "assistant", "content": null, "tool_calls": calls})
                    }
                    "tool" => serde_json::json!({"role": "tool", "tool_call_id": rest, "content": "r"}),
                    role => serde_json::json!({"role": role, "content": rest}),
                }
                .to_string()
                .into()
            })
            .collect()
    }

    fn groups(stored: &[&str], new: &[&str]) -> (String, usize) {
        let groups = Groups::of(&messages(stored), &messages(new));
        let begins = groups.begins.iter();
        (
            begins.map(|free| if *free { '|' } else { '.' }).collect(),
            groups.open_from,
        )
    }

    #[test]
    fn a_call_holds_its_results() {
        let stored = ["user", "call a b", "tool a", "tool b", "assistant", "user"];
        assert_eq!(groups(&stored, &["user"]), ("||..||".into(), 6));
        // One after another, and answered late.
        let stored = ["call a", "tool a", "call a", "tool a", "user"];
        assert_eq!(groups(&stored, &[]), ("|.|.|".into(), 5));
        let stored = ["call a b", "tool a", "user", "tool b", "user"];
        assert_eq!(groups(&stored, &[]), ("|...|".into(), 5));
    }

    #[test]
    fn results_without_a_call_hold_together() {
        assert_eq!(
            groups(&["tool x", "tool y", "tool z"], &["user"]),
            ("|..".into(), 3)
        );
        assert_eq!(groups(&["user", "tool x"], &["user"]), ("|.".into(), 2));
    }

    #[test]
    fn a_call_that_the_turn_answers_stays() {
        assert_eq!(groups(&["user", "call a"], &["tool a"]), ("||".into(), 1));
        assert_eq!(groups(&["user", "call a"], &["user"]), ("||".into(), 2));
        assert_eq!(groups(&["user", "call a"], &[]), ("||".into(), 1));
        let half = ["call a b", "tool a"];
        assert_eq!(groups(&half, &["tool b"]), ("|.".into(), 0));
        assert_eq!(groups(&[], &["tool b"]), (String::new(), 0));
    }

    #[test]
    fn what_cannot_be_read_stands_alone() {
        let odd = [Bytes::from_static(b"{"), Bytes::from_static(b"[]")];
        assert_eq!(Groups::of(&odd, []).begins, [true, true]);
    }
}
