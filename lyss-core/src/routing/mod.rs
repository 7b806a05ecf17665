//! From a model name to targets in tiers.
//!
//! The table is a snapshot that is swapped whole: calls in flight keep the one they began with. It is rebuilt when the
//! configuration or the `routing_rules` table changes (`source.rs`); balancers of unchanged tiers move over, so that
//! their shares stay exact.

mod source;
mod target;

use std::{collections::HashMap, sync::Arc};

pub use source::watch_rules;
pub use target::{Account, InFlight, Target};

use crate::{
    balance::{BalancerFactory, LoadBalancer},
    error::{Error, ErrorKind, Result},
    gateway::RoutingRule,
    resilience::limit::RateLimit,
};

/// The targets of one model.
pub struct Route {
    /// Where the route came from, for the decision record.
    pub source: &'static str,
    /// Tiers, the first tried first.
    pub tiers: Vec<Tier>,
}

/// Targets of the same priority.
pub struct Tier {
    /// The priority; 1 is tried first.
    pub priority: u32,
    /// The targets.
    pub targets: Vec<Arc<Target>>,
    /// Who chooses among them.
    pub balancer: Arc<dyn LoadBalancer>,
}

/// What the table is built from.
pub struct TableParts {
    /// Every account, by provider id: one for each of its keys.
    pub accounts: HashMap<Arc<str>, Vec<Arc<Account>>>,
    /// Rules of the configuration.
    pub config_rules: Vec<RoutingRule>,
    /// Rules of the database; for a model that has one, those of the configuration do not count.
    pub stored_rules: Vec<RoutingRule>,
    /// `providers.<id>.models` as rules; for a model that has a rule proper, these do not count.
    pub named_models: Vec<RoutingRule>,
    /// Where models go that nothing else names.
    pub default_provider: Option<Arc<str>>,
    /// The strategy.
    pub balancer: BalancerFactory,
}

/// A routing table.
pub struct Table {
    routes: HashMap<String, Arc<Route>>,
    accounts: HashMap<Arc<str>, Vec<Arc<Account>>>,
    default_provider: Option<Arc<str>>,
    balancer: BalancerFactory,
}

impl Table {
    /// Builds a table. Tiers that `previous` has with the same targets and weights keep their balancers and limits.
    pub fn build(parts: &TableParts, previous: Option<&Table>) -> Self {
        // The first source that has a rule for a model decides about it.
        let mut by_model: HashMap<&str, (&'static str, Vec<&RoutingRule>)> = HashMap::new();
        let sources = [
            ("rule", &parts.stored_rules),
            ("rule", &parts.config_rules),
            ("provider_models", &parts.named_models),
        ];
        for (source, rules) in sources {
            let mut own: HashMap<&str, (&'static str, Vec<&RoutingRule>)> = HashMap::new();
            for rule in rules {
                let (_, list) = own.entry(&rule.model_name).or_insert((source, Vec::new()));
                list.push(rule);
            }
            for (model, rules) in own {
                by_model.entry(model).or_insert(rules);
            }
        }
        let mut table = Self {
            routes: HashMap::new(),
            accounts: parts.accounts.clone(),
            default_provider: parts.default_provider.clone(),
            balancer: Arc::clone(&parts.balancer),
        };
        for (model, (source, rules)) in by_model {
            let old = previous.and_then(|table| table.routes.get(model));
            let route = table.route_of_rules(model, source, &rules, old.map(|route| &**route));
            // A model whose rules are all off, or name providers that do not exist, is not served by accident.
            table.routes.insert(model.to_owned(), Arc::new(route));
        }
        table
    }

    fn route_of_rules(
        &self,
        model: &str,
        source: &'static str,
        rules: &[&RoutingRule],
        old: Option<&Route>,
    ) -> Route {
        let mut priorities: Vec<u32> = rules
            .iter()
            .filter(|rule| rule.is_enabled)
            .map(|rule| rule.priority)
            .collect();
        priorities.sort_unstable();
        priorities.dedup();
        let tiers = priorities
            .into_iter()
            .map(|priority| {
                let rules: Vec<&RoutingRule> = rules
                    .iter()
                    .copied()
                    .filter(|rule| rule.is_enabled && rule.priority == priority)
                    .collect();
                let accounts = |rule: &RoutingRule| {
                    self.accounts
                        .get(rule.provider_id.as_str())
                        .map_or(&[][..], Vec::as_slice)
                };
                // A provider's share is its rule's weight, however many keys it has.
                let scale = rules
                    .iter()
                    .map(|rule| accounts(rule).len().max(1) as u64)
                    .fold(1, lcm);
                let targets: Vec<Arc<Target>> = rules
                    .iter()
                    .flat_map(|rule| {
                        let limit = rule
                            .max_rps
                            .map(|rps| Arc::new(RateLimit::of_rule(rule, rps)));
                        let accounts = accounts(rule);
                        let weight = u64::from(rule.weight) * scale / accounts.len().max(1) as u64;
                        accounts.iter().map(move |account| {
                            Arc::new(Target {
                                account: Arc::clone(account),
                                upstream_model: rule
                                    .upstream_model
                                    .as_deref()
                                    .unwrap_or(model)
                                    .into(),
                                weight: u32::try_from(weight).unwrap_or(u32::MAX),
                                rule_weight: rule.weight,
                                rule_rps: rule.max_rps,
                                rule_limit: limit.clone(),
                            })
                        })
                    })
                    .collect();
                self.tier(priority, targets, old)
            })
            .filter(|tier| !tier.targets.is_empty())
            .collect();
        Route { source, tiers }
    }

    fn tier(&self, priority: u32, targets: Vec<Arc<Target>>, old: Option<&Route>) -> Tier {
        let same = old.and_then(|old| {
            old.tiers.iter().find(|tier| {
                tier.priority == priority
                    && tier.targets.len() == targets.len()
                    && tier
                        .targets
                        .iter()
                        .zip(&targets)
                        .all(|(left, right)| left.same(right))
            })
        });
        match same {
            Some(tier) => {
                // The accounts may be new objects; the shares and the rule's own limit go on.
                let targets = targets
                    .iter()
                    .zip(&tier.targets)
                    .map(|(new, old)| {
                        Arc::new(Target {
                            rule_limit: old.rule_limit.clone(),
                            ..Target::clone(new)
                        })
                    })
                    .collect();
                Tier {
                    priority,
                    targets,
                    balancer: Arc::clone(&tier.balancer),
                }
            }
            None => {
                let balancer = (self.balancer)(targets.len()).into();
                Tier {
                    priority,
                    targets,
                    balancer,
                }
            }
        }
    }

    /// A route to one provider, over all its keys.
    fn single(&self, provider: &str, upstream_model: &str, source: &'static str) -> Option<Route> {
        let accounts = self.accounts.get(provider)?;
        let upstream_model: Arc<str> = upstream_model.into();
        let targets: Vec<Arc<Target>> = accounts
            .iter()
            .map(|account| {
                Arc::new(Target {
                    account: Arc::clone(account),
                    upstream_model: Arc::clone(&upstream_model),
                    weight: account.weight.max(1),
                    rule_weight: account.weight,
                    rule_rps: None,
                    rule_limit: None,
                })
            })
            .collect();
        // Shares over the keys of one provider belong to the provider, not to each model name that is asked for.
        let balancer = match accounts.first() {
            Some(first) => Arc::clone(
                first
                    .key_balancer
                    .get_or_init(|| (self.balancer)(targets.len()).into()),
            ),
            None => return None,
        };
        Some(Route {
            source,
            tiers: vec![Tier {
                priority: 1,
                targets,
                balancer,
            }],
        })
    }

    /// The route of a model: a rule for the name → `provider/model` → `providers.*.models` → a provider whose protocol
    /// or preset knows the name → the default provider.
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn resolve(&self, model: &str) -> Result<Arc<Route>> {
        if let Some(route) = self.routes.get(model) {
            if route.tiers.is_empty() {
                return Err(Error::new(
                    ErrorKind::ModelNotFound,
                    format!(
                        "the rules of `{}` name no provider that is configured and enabled",
                        shown(model)
                    ),
                )
                .with_param("model"));
            }
            return Ok(Arc::clone(route));
        }
        if let Some((provider, upstream)) = model.split_once('/')
            && !upstream.is_empty()
            && let Some(route) = self.single(provider, upstream, "provider_prefix")
        {
            return Ok(Arc::new(route));
        }
        let knows = self
            .accounts
            .iter()
            .filter(|(_, accounts)| accounts.first().is_some_and(|account| account.knows(model)))
            .map(|(id, _)| id)
            // The default provider first, then by name: the choice must not depend on hash order.
            .min_by_key(|id| (Some(*id) != self.default_provider.as_ref(), (*id).clone()));
        if let Some(provider) = knows
            && let Some(route) = self.single(provider, model, "preset")
        {
            return Ok(Arc::new(route));
        }
        if let Some(provider) = &self.default_provider
            && let Some(route) = self.single(provider, model, "default_provider")
        {
            return Ok(Arc::new(route));
        }
        Err(Error::new(
            ErrorKind::ModelNotFound,
            format!(
                "no provider serves the model `{}`; `GET /v1/models` lists what is served",
                shown(model)
            ),
        )
        .with_param("model"))
    }

    /// Names that have a route of their own, with the target that serves them first.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Arc<Target>)> {
        self.routes.iter().filter_map(|(name, route)| {
            let target = route.tiers.first()?.targets.first()?;
            Some((name.as_str(), target))
        })
    }

    /// Every account.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values().flatten()
    }

    /// The accounts by provider.
    pub fn providers(&self) -> &HashMap<Arc<str>, Vec<Arc<Account>>> {
        &self.accounts
    }
}

/// A name as it may stand in a message: bounded.
fn shown(model: &str) -> String {
    model.chars().take(100).collect()
}

fn lcm(left: u64, right: u64) -> u64 {
    let (mut a, mut b) = (left, right);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    left / a.max(1) * right
}
