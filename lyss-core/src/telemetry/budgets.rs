//! The metrics of budgets. No user, key or session is a label: a budget is known by where it is defined.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabels {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    budget: String,
    currency: String,
}

type Amounts = Family<BudgetLabels, Gauge<f64, AtomicU64>>;

/// What budgets do. Clones are the same metrics.
#[derive(Debug, Clone, Default)]
pub struct BudgetMetrics {
    refusals: Family<ScopeLabels, Counter>,
    unavailable: Counter,
    unchecked: Counter,
    excesses: Counter,
    spent: Amounts,
    reserved: Amounts,
    amount: Amounts,
}

impl BudgetMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "gateway_budget_refusals",
            "Calls that a budget did not cover, by whose it is",
            all.refusals.clone(),
        );
        registry.register(
            "gateway_budget_unavailable",
            "Calls refused because the store of the counters was away",
            all.unavailable.clone(),
        );
        registry.register(
            "gateway_budget_unchecked",
            "Calls that went on without a reservation while the store was away (`billing.on_store_down: open`)",
            all.unchecked.clone(),
        );
        registry.register(
            "gateway_budget_excesses",
            "Calls that cost more than was reserved for them",
            all.excesses.clone(),
        );
        registry.register(
            "gateway_budget_spent",
            "What is spent of a budget in its period, in units of its currency",
            all.spent.clone(),
        );
        registry.register(
            "gateway_budget_reserved",
            "What running calls may cost of a budget, in units of its currency",
            all.reserved.clone(),
        );
        registry.register(
            "gateway_budget_amount",
            "How much a budget is, in units of its currency",
            all.amount.clone(),
        );
        all
    }

    /// A call was not covered.
    pub fn refused(&self, scope: &'static str) {
        self.refusals.get_or_create(&ScopeLabels { scope }).inc();
    }

    /// Calls that were not covered.
    #[cfg(test)]
    pub fn refusals(&self, scope: &'static str) -> u64 {
        self.refusals.get_or_create(&ScopeLabels { scope }).get()
    }

    /// A call was refused since the store was away.
    pub fn unavailable(&self) {
        self.unavailable.inc();
    }

    /// A call went on without a reservation.
    pub fn unchecked(&self) {
        self.unchecked.inc();
    }

    /// A call cost more than was reserved.
    pub fn excess(&self) {
        self.excesses.inc();
    }

    /// How a budget stands, in units of its currency. The names are of the operator's definitions, and few.
    pub fn stands(&self, budget: &str, currency: &str, amount: f64, spent: f64, reserved: f64) {
        let labels = BudgetLabels {
            budget: budget.to_owned(),
            currency: currency.to_owned(),
        };
        self.amount.get_or_create(&labels).set(amount);
        self.spent.get_or_create(&labels).set(spent);
        self.reserved.get_or_create(&labels).set(reserved);
    }

    /// Forgets how budgets stood: some may be gone.
    pub fn clear(&self) {
        self.amount.clear();
        self.spent.clear();
        self.reserved.clear();
    }
}
