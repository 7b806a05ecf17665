//! `monitoring`: metrics, traces and logs.

use super::reader::{Choice, Reader, Section};

/// `monitoring`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitoringConfig {
    /// The metrics endpoint.
    pub prometheus: PrometheusConfig,
    /// Accepted for compatibility: traces go out as OTLP.
    pub jaeger: Option<TraceConfig>,
    /// Where traces go.
    pub otlp: Option<TraceConfig>,
    /// What is logged and how.
    pub log: LogConfig,
}

/// `monitoring.prometheus`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrometheusConfig {
    /// Whether metrics are served.
    pub enabled: bool,
    /// `host:port` of the metrics listener, normalised.
    pub addr: String,
}

/// `monitoring.jaeger` and `monitoring.otlp`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceConfig {
    /// URL of the collector.
    pub endpoint: String,
}

/// `monitoring.log`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// A level, or `tracing` directives such as `info,hyper=warn`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
    /// Whether message contents are logged (secrets never are).
    pub content: bool,
}

/// `monitoring.log.format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

impl Default for PrometheusConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            addr: "127.0.0.1:9090".to_owned(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
            content: false,
        }
    }
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

impl Section for MonitoringConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.section("prometheus", &mut self.prometheus);
        r.optional("jaeger", &mut self.jaeger);
        r.optional("otlp", &mut self.otlp);
        r.section("log", &mut self.log);
    }
}

impl Section for PrometheusConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.boolean("enabled", &mut self.enabled);
        r.address("addr", &mut self.addr);
    }
}

impl Section for TraceConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.require("endpoint", "a URL beginning with http:// or https://");
        r.url("endpoint", &["http", "https"], &mut self.endpoint);
    }
}

impl Section for LogConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        let accepts = "trace, debug, info, warn, error, off, or directives such as info,hyper=warn";
        r.parsed("level", accepts, log_level, &mut self.level);
        r.choice("format", &mut self.format);
        r.boolean("content", &mut self.content);
    }
}

/// Checks `level` or `level,target=level,…`; levels in any case, as `LOG_LEVEL=INFO` is common.
fn log_level(text: &str) -> Result<String, String> {
    let directives: Vec<String> = text
        .split(',')
        .map(|directive| match directive.trim().rsplit_once('=') {
            Some((target, level)) => Ok(format!("{target}={}", level_name(level)?)),
            None => level_name(directive),
        })
        .collect::<Result<_, String>>()?;
    Ok(directives.join(","))
}

fn level_name(text: &str) -> Result<String, String> {
    let level = text.trim().to_ascii_lowercase();
    match level.as_str() {
        "trace" | "debug" | "info" | "warn" | "error" | "off" => Ok(level),
        "warning" => Ok("warn".to_owned()),
        _ => Err("is not a log level".to_owned()),
    }
}
