//! What a caller may use, by part of the API.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A part of the API that a key may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Chat completions, and counting their tokens.
    Chat,
    /// Embeddings.
    Embeddings,
    /// Reading, creating and deleting sessions. A chat request with a session needs only `chat`.
    Sessions,
    /// The caller's usage and request log.
    Usage,
    /// The admin surface, and speaking for any user.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [
        Self::Chat,
        Self::Embeddings,
        Self::Sessions,
        Self::Usage,
        Self::Admin,
    ];

    /// Its name in keys, tokens and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
            Self::Sessions => "sessions",
            Self::Usage => "usage",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// What a caller may use of whom nothing else is said: all but `admin`.
    pub const CALLER: Self = Self::NONE
        .with(Scope::Chat)
        .with(Scope::Embeddings)
        .with(Scope::Sessions)
        .with(Scope::Usage);
    /// Everything.
    pub const ALL: Self = Self::CALLER.with(Scope::Admin);

    /// This set and a scope.
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// This set without a scope.
    pub const fn without(self, scope: Scope) -> Self {
        Self(self.0 & !scope.bit())
    }

    /// Whether a scope is in the set.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    /// The scopes of these names; a name that is none is passed over, so that what a newer release knows opens nothing
    /// here.
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(Scope::from_name).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|scope| scope.name()))
            .finish()
    }
}

/// A list of names.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::name))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names
            .iter()
            .map(|name| {
                Scope::from_name(name).ok_or_else(|| {
                    let accepted = Scope::ALL.map(Scope::name).join(", ");
                    serde::de::Error::custom(format!(
                        "there is no such scope; accepted: {accepted}"
                    ))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
            assert!(Scopes::ALL.has(scope));
            assert_eq!(Scopes::CALLER.has(scope), scope != Scope::Admin);
            assert!(!Scopes::ALL.without(scope).has(scope));
        }
        let some: Scopes = [Scope::Usage, Scope::Chat].into_iter().collect();
        let json = serde_json::to_string(&some).unwrap();
        assert_eq!(json, r#"["chat","usage"]"#);
        assert_eq!(serde_json::from_str::<Scopes>(&json).unwrap(), some);
        assert_eq!(format!("{some:?}"), r#"{"chat", "usage"}"#);
    }

    #[test]
    fn an_unknown_name_opens_nothing() {
        assert_eq!(Scopes::of_names(["everything", "ADMIN", ""]), Scopes::NONE);
        assert!(serde_json::from_str::<Scopes>(r#"["chat","root"]"#).is_err());
    }
}
