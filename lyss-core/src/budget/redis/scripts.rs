//! The scripts.

use ::redis::Script;

/// Each is sent once to a server and then called by its hash.
#[derive(Debug)]
pub(super) struct Scripts {
    pub reserve: Script,
    pub settle: Script,
    pub begin: Script,
    pub join: Script,
    pub tell: Script,
    pub open_up: Script,
}

impl Scripts {
    pub fn new() -> Self {
        let of = |body: &str| Script::new(&format!("{}\n{body}", include_str!("lua/epoch.lua")));
        Self {
            reserve: of(include_str!("lua/reserve.lua")),
            settle: of(include_str!("lua/settle.lua")),
            begin: of(include_str!("lua/begin.lua")),
            join: of(include_str!("lua/join.lua")),
            tell: of(include_str!("lua/tell.lua")),
            open_up: of(include_str!("lua/open_up.lua")),
        }
    }
}
