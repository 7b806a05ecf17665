//! Placeholder until the config branch lands.
/// One provider.
#[derive(Debug, Clone, Default)]
pub struct ProviderConfig {
    /// Base URL.
    pub base_url: Option<String>,
}
