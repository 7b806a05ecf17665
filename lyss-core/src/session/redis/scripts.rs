//! The scripts, and the keys they work on.

use ::redis::{Script, ScriptInvocation};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::types::session::SessionKey;

const SESSION: &str = include_str!("lua/session.lua");
const TURNS: &str = include_str!("lua/turns.lua");
const WINDOW: &str = include_str!("lua/window.lua");

/// Each is sent once to a server and then called by its hash.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code) // Some are for the archive, which is in a database.
)]
pub(super) struct Scripts {
    pub create: Script,
    pub read: Script,
    pub append: Script,
    pub delete: Script,
    pub begin_turn: Script,
    pub renew_turn: Script,
    pub end_turn: Script,
    pub begin_compression: Script,
    pub compress: Script,
    pub end_compression: Script,
    pub lay_ready: Script,
    pub restore: Script,
    pub epoch: Script,
    pub touch: Script,
    pub heal: Script,
}

impl Scripts {
    pub fn new() -> Self {
        let of = |parts: &[&str]| Script::new(&parts.join("\n"));
        let session = |body| of(&[SESSION, body]);
        let turns = |body| of(&[SESSION, TURNS, body]);
        Self {
            create: session(include_str!("lua/create.lua")),
            read: of(&[SESSION, WINDOW, include_str!("lua/read.lua")]),
            append: turns(include_str!("lua/append.lua")),
            delete: turns(include_str!("lua/delete.lua")),
            begin_turn: of(&[SESSION, WINDOW, TURNS, include_str!("lua/begin_turn.lua")]),
            renew_turn: turns(include_str!("lua/renew_turn.lua")),
            end_turn: turns(include_str!("lua/end_turn.lua")),
            begin_compression: session(include_str!("lua/begin_compression.lua")),
            compress: session(include_str!("lua/compress.lua")),
            end_compression: session(include_str!("lua/end_compression.lua")),
            lay_ready: Script::new(include_str!("lua/lay_ready.lua")),
            restore: session(include_str!("lua/restore.lua")),
            epoch: Script::new(include_str!("lua/epoch.lua")),
            touch: Script::new(include_str!("lua/touch.lua")),
            heal: Script::new(include_str!("lua/heal.lua")),
        }
    }
}

/// A call of a script on a session, its keys and its owner given.
pub(super) fn session_call<'a>(script: &'a Script, key: &SessionKey) -> ScriptInvocation<'a> {
    let mut call = script.prepare_invoke();
    for key in session_keys(key) {
        call.key(key);
    }
    call.arg(&key.user_id).arg(&key.id);
    call
}

/// Header, messages, turns, queue and deletion of a session.
pub(super) fn session_keys(key: &SessionKey) -> [String; 5] {
    let tag = format!("{}.{}", encoded(&key.user_id), encoded(&key.id));
    ["h", "m", "t", "q", "d"].map(|part| format!("lyss:s:{{{tag}}}:{part}"))
}

pub(super) fn listing_key(user_id: &str) -> String {
    format!("lyss:u:{{{}}}", encoded(user_id))
}

fn encoded(text: &str) -> String {
    // An empty tag would let Redis hash the whole key: `-` is in the alphabet, but no encoding has one character.
    match text {
        "" => "-".to_owned(),
        text => URL_SAFE_NO_PAD.encode(text),
    }
}
