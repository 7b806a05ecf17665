//! `auth`: who may call.

use super::jwt::JwtConfig;
use super::reader::{Choice, Reader, Section};
use super::secret::Secret;

/// `auth`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthConfig {
    /// Whether callers need a key. Unset: decided by the address, see `Config::auth_mode`.
    pub mode: Option<AuthMode>,
    /// A key with admin rights that needs no database, e.g. to make the first user key.
    pub admin_key: Option<Secret>,
    /// Confirms that `mode: none` is meant on an address that others can reach.
    pub allow_anonymous: bool,
    /// The user of a request that names none, when no keys are required.
    pub default_user: Option<String>,
    /// Whether a request without a user is refused even if a default user is set.
    pub require_user_id: bool,
    /// The secret that keys are hashed with. Unset: generated once into the data directory.
    pub pepper: Option<Secret>,
    /// Tokens of an identity provider.
    pub jwt: Option<JwtConfig>,
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Everybody who reaches the address may call.
    None,
    /// A key is required.
    Keys,
}

impl Choice for AuthMode {
    const NAMES: &'static [(&'static str, Self)] = &[("none", Self::None), ("keys", Self::Keys)];
}

impl Section for AuthConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.choice::<AuthMode>("mode", &mut self.mode);
        r.strong_secret("admin_key", &mut self.admin_key);
        r.boolean("allow_anonymous", &mut self.allow_anonymous);
        r.text("default_user", &mut self.default_user);
        r.boolean("require_user_id", &mut self.require_user_id);
        r.strong_secret("pepper", &mut self.pepper);
        r.optional("jwt", &mut self.jwt);
    }
}
