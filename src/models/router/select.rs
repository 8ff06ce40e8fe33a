//! Which backends a request may go to, in which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{RouteError, backend::Backend, breaker::Entry};
use crate::config::{self, AnswerRoute, AnswerRule, DEFAULT_ANSWER_ROUTE, Language, Policy};

/// What is known of a request when its backend is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selector<'a> {
    /// The model that the client names: a backend, a route, or a name that a rule knows.
    pub model: Option<&'a str>,
    pub collection: Option<&'a str>,
    pub tenant: Option<Uuid>,
    /// The question, or the last message of the user.
    pub question: &'a str,
    /// When the caller's own time is up; the route's deadline holds too.
    pub until: Option<Instant>,
}

/// A backend in its turn.
pub struct Candidate {
    pub backend: Arc<Backend>,
    /// Its breaker is open: it is asked because nobody else is left.
    pub last_resort: bool,
}

impl Candidate {
    /// Whether it takes a client's own request.
    pub fn forwards(&self) -> bool {
        self.backend.generator().forwarder().is_some()
    }
}

/// Who is asked for a request, and how long.
pub struct Chosen {
    pub candidates: Vec<Candidate>,
    pub hedge_after: Option<Duration>,
    pub deadline: Duration,
}

/// Every route, with the backends that are in use.
pub struct RouteTable {
    backends: Vec<Arc<Backend>>,
    default: Route,
    by_name: BTreeMap<String, Route>,
    rules: Vec<AnswerRule>,
}

impl RouteTable {
    /// The routes of `models.toml`; backends that are not in use are left out.
    pub fn new(backends: &[Arc<Backend>], routes: &config::Routes) -> Self {
        let named = routes.answer_by_name.iter();
        Self {
            backends: backends.to_vec(),
            default: Route::new(&routes.answer, backends),
            by_name: named.map(|(name, route)| (name.clone(), Route::new(route, backends))).collect(),
            rules: routes.answer_rules.clone(),
        }
    }

    /// One route over these backends, in their order.
    pub fn of_all(backends: &[Arc<Backend>]) -> Self {
        let names = backends.iter().map(|backend| backend.name().to_owned()).collect();
        let route = AnswerRoute { backends: names, ..AnswerRoute::default() };
        let default = Route::new(&route, backends);
        Self { backends: backends.to_vec(), default, by_name: BTreeMap::new(), rules: Vec::new() }
    }

    /// Every name, those of backends first.
    pub fn models(&self) -> Vec<String> {
        let backends = self.backends.iter().map(|backend| backend.name());
        let names = [DEFAULT_ANSWER_ROUTE].into_iter().chain(self.by_name.keys().map(String::as_str));
        let aliases = self.rules.iter().flat_map(|rule| rule.models.iter().map(String::as_str));
        let routes: BTreeSet<&str> = names.chain(aliases).collect();
        // A rule may be about a backend's name.
        let backends: Vec<&str> = backends.filter(|name| !routes.contains(name)).collect();
        backends.into_iter().chain(routes).map(str::to_owned).collect()
    }

    /// Those that can lead a tenant to a backend. A rule about collections does not, where none is asked.
    pub fn models_for(&self, tenant: Uuid) -> Vec<String> {
        let mut models = self.models();
        models.retain(|model| {
            let named = Some(model.as_str()).filter(|model| *model != DEFAULT_ANSWER_ROUTE);
            let by_rule = self.rules.iter().any(|rule| {
                is_about(rule, named)
                    && rule.collections.is_empty()
                    && (rule.tenants.is_empty() || rule.tenants.contains(&tenant))
                    && self.by_name.get(&rule.route).is_some_and(Route::has_backends)
            });
            let by_route = match named {
                Some(name) => self.by_name.get(name),
                None => Some(&self.default),
            };
            by_rule
                || by_route.is_some_and(Route::has_backends)
                || self.backends.iter().any(|backend| backend.name() == model)
        });
        models
    }

    /// Who is asked for this request.
    ///
    /// The first rule that holds counts; without one the model that is named, or `[routes.answer]`.
    pub fn choose(&self, selector: &Selector<'_>) -> Result<Chosen, RouteError> {
        let model = selector.model.filter(|model| *model != DEFAULT_ANSWER_ROUTE);
        let rule = self.rules.iter().find(|rule| holds(rule, model, selector));
        let route = match (rule, model) {
            (Some(rule), _) => self.by_name.get(&rule.route),
            (None, Some(name)) => self.by_name.get(name),
            (None, None) => Some(&self.default),
        };
        if let Some(route) = route {
            return route.choose();
        }
        let wanted = model.unwrap_or_default();
        match self.backends.iter().find(|backend| backend.name() == wanted) {
            Some(backend) => Ok(Chosen {
                candidates: in_turn(vec![Arc::clone(backend)]),
                hedge_after: None,
                deadline: self.default.deadline,
            }),
            None => Err(RouteError::UnknownModel { wanted: wanted.to_owned(), known: self.models() }),
        }
    }
}

fn holds(rule: &AnswerRule, model: Option<&str>, selector: &Selector<'_>) -> bool {
    let names = |list: &[String], value: Option<&str>| {
        list.is_empty() || value.is_some_and(|value| list.iter().any(|name| name == value))
    };
    is_about(rule, model)
        && names(&rule.collections, selector.collection)
        && (rule.tenants.is_empty() || selector.tenant.is_some_and(|tenant| rule.tenants.contains(&tenant)))
        && has_length(rule, selector.question)
        && (rule.languages.is_empty()
            || Language::of(selector.question).is_some_and(|language| rule.languages.contains(&language)))
}

/// Whether a rule is for those who name this model, or none.
fn is_about(rule: &AnswerRule, model: Option<&str>) -> bool {
    match model {
        Some(model) => rule.models.iter().any(|name| name == model),
        None => rule.models.is_empty(),
    }
}

fn has_length(rule: &AnswerRule, question: &str) -> bool {
    if rule.min_chars.is_none() && rule.max_chars.is_none() {
        return true;
    }
    let length = question.chars().count();
    rule.min_chars.is_none_or(|min| length >= min) && rule.max_chars.is_none_or(|max| length <= max)
}

struct Route {
    /// With their weights.
    backends: Vec<(Arc<Backend>, u32)>,
    policy: Policy,
    hedge_after: Option<Duration>,
    deadline: Duration,
}

impl Route {
    fn new(route: &AnswerRoute, backends: &[Arc<Backend>]) -> Self {
        let in_use = |name: &String| {
            let backend = backends.iter().find(|backend| backend.name() == name)?;
            Some((Arc::clone(backend), route.weights.get(name).copied().unwrap_or(1)))
        };
        Self {
            backends: route.backends.iter().filter_map(in_use).collect(),
            policy: route.policy,
            hedge_after: route.hedge_after_ms.map(Duration::from_millis),
            deadline: Duration::from_millis(route.deadline_ms),
        }
    }

    fn has_backends(&self) -> bool {
        !self.backends.is_empty()
    }

    fn choose(&self) -> Result<Chosen, RouteError> {
        if self.backends.is_empty() {
            return Err(RouteError::NoBackend);
        }
        let mut backends = self.backends.clone();
        match self.policy {
            Policy::Fallback => {}
            Policy::Weighted => shuffle(&mut backends),
            Policy::LeastBusy => backends.sort_by_cached_key(|(backend, _)| backend.load()),
        }
        let ordered = backends.into_iter().map(|(backend, _)| backend).collect();
        Ok(Chosen { candidates: in_turn(ordered), hedge_after: self.hedge_after, deadline: self.deadline })
    }
}

/// Those that may be asked, then those whose breaker is open.
fn in_turn(backends: Vec<Arc<Backend>>) -> Vec<Candidate> {
    let ready = |backend: &Arc<Backend>| matches!(backend.look(), Entry::Free | Entry::Probe);
    let (ready, shut): (Vec<_>, Vec<_>) = backends.into_iter().partition(ready);
    let candidate = |last_resort| move |backend| Candidate { backend, last_resort };
    ready.into_iter().map(candidate(false)).chain(shut.into_iter().map(candidate(true))).collect()
}

/// By chance: the first is a backend of weight w with the probability w / Σw, and so on among the
/// others. It is the order of the first events of Poisson processes with these rates.
fn shuffle(backends: &mut Vec<(Arc<Backend>, u32)>) {
    // 1 − u is never 0, so that no logarithm is infinite; a rate of 0 has its event last.
    let first_event = |weight: u32| -(1.0 - rand::random::<f64>()).ln() / f64::from(weight);
    let mut timed: Vec<(f64, (Arc<Backend>, u32))> =
        backends.drain(..).map(|backend| (first_event(backend.1), backend)).collect();
    timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    backends.extend(timed.into_iter().map(|(_, backend)| backend));
}
