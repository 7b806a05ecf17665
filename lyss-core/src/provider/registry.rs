//! Provider kinds by name: which constructor makes a provider out of a [`ProviderSpec`]. Open to the embedding program.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Provider, ProviderSpec, dashscope, openai, simulated};
use crate::error::{Error, Result};

/// Makes a provider.
pub type Constructor = Arc<dyn Fn(ProviderSpec) -> Result<Arc<dyn Provider>> + Send + Sync>;

/// The kinds that the configuration may name.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<String, Constructor>,
}

impl Registry {
    /// No kind at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The kinds of this crate.
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        registry.register("dashscope", dashscope::DashScope::from_spec);
        registry.register("openai", openai::OpenAi::from_spec);
        registry.register("simulated", simulated::Simulated::from_spec);
        registry
    }

    /// Adds a kind, or replaces the one of that name.
    ///
    /// # Example
    /// ```
    /// # use std::sync::Arc;
    /// # use lyss_core::provider::{registry::Registry, simulated::Simulated};
    /// let mut registry = Registry::builtin();
    /// registry.register("mine", |spec| Simulated::from_spec(spec));
    /// assert!(registry.kinds().any(|kind| kind == "mine"));
    /// ```
    pub fn register(
        &mut self,
        kind: impl Into<String>,
        constructor: impl Fn(ProviderSpec) -> Result<Arc<dyn Provider>> + Send + Sync + 'static,
    ) -> &mut Self {
        self.kinds.insert(kind.into(), Arc::new(constructor));
        self
    }

    /// The names of all kinds, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    /// Makes a provider of a kind.
    ///
    /// # Errors
    /// `invalid_value` for an unknown kind (the message lists the known ones) and for settings that the kind refuses.
    pub fn build(&self, kind: &str, spec: ProviderSpec) -> Result<Arc<dyn Provider>> {
        let Some(constructor) = self.kinds.get(kind) else {
            let known = self.kinds().collect::<Vec<_>>().join(", ");
            return Err(Error::invalid(
                "kind",
                format!(
                    "provider `{}`: unknown kind `{kind}`; known are {known}",
                    spec.id
                ),
            ));
        };
        let id = spec.id.clone();
        constructor(spec).map_err(|error| error.with_provider(&*id))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kinds()).finish()
    }
}
