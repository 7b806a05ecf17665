//! Who calls, may they, is there room. A refusal before the caller is known makes no row, only a metric.

use std::sync::Arc;

use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::{finish::Record, limit};
use crate::{
    admission::{KeyAnswer, Scope, Scopes, jwt},
    config::AuthMode,
    engine::Inner,
    error::{Error, ErrorKind, Result},
    types::{
        CallContext, ChatRequest, Credential, LogRow, Principal, RawObject, call::Caller,
        log::Purpose,
    },
};

/// What a request asks for, as far as admission cares.
pub(crate) struct Asked<'a> {
    pub purpose: Purpose,
    pub model: &'a str,
    pub stream: bool,
    pub body: &'a RawObject,
    /// The gateway's `user_id` in the body.
    pub user_id: Option<&'a str>,
    /// OpenAI's `user` in the body.
    pub user: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub fn chat(request: &'a ChatRequest) -> Self {
        Self {
            purpose: Purpose::Chat,
            model: request.model(),
            stream: request.stream(),
            body: request.body(),
            user_id: request.user_id(),
            user: request.user(),
        }
    }
}

/// Admits a request: from here on it makes exactly one row.
pub(crate) async fn admit(
    inner: &Arc<Inner>,
    context: &CallContext,
    asked: Asked<'_>,
) -> Result<(Principal, Record)> {
    let principal = identify(inner, context, asked.user_id, asked.user)
        .await
        .inspect_err(|error| {
            inner.metrics.refused(error.code());
        })?;
    let mut row = LogRow::new(context.request_id, asked.purpose, asked.model, asked.stream);
    row.client_request_id.clone_from(&context.client_request_id);
    row.user_id = principal.user_id.clone().unwrap_or_default();
    row.api_key_id.clone_from(&principal.api_key_id);
    let mut record = Record::new(Arc::clone(inner), context.request_id, context.started, row);
    let allowed = async {
        may(inner, &principal, &asked)?;
        limit::limit(inner, context, &principal, &asked, &mut record).await
    };
    if let Err(error) = allowed.await {
        record.end(Some(&error));
        return Err(error);
    }
    Ok((principal, record))
}

fn may(inner: &Inner, principal: &Principal, asked: &Asked<'_>) -> Result<()> {
    principal.user()?;
    if inner.is_draining() {
        return Err(Error::new(
            ErrorKind::ShuttingDown,
            "the gateway is shutting down; try another instance",
        ));
    }
    principal.may(match asked.purpose {
        Purpose::Embedding => Scope::Embeddings,
        _ => Scope::Chat,
    })?;
    principal.may_use(asked.model)?;
    if inner.over_capacity() {
        return Err(Error::new(
            ErrorKind::Overloaded,
            "too many requests are running (`server.max_in_flight`)",
        ));
    }
    Ok(())
}

/// Establishes for whom a call is made: the key's user; else `user_id`; else OpenAI's `user`; else the default user.
///
/// # Errors
/// `missing_api_key`, `invalid_api_key`, `expired_api_key`, `auth_store_unavailable`, `user_mismatch`.
pub(crate) async fn identify(
    inner: &Inner,
    context: &CallContext,
    user_id: Option<&str>,
    user: Option<&str>,
) -> Result<Principal> {
    let caller = authenticate(inner, &context.credential).await?;
    let settings = inner.settings();
    let default_user = &settings.auth.default_user;
    let named = user_id.or(context.user_id.as_deref());
    match caller {
        Caller::Key(record) => Ok(Principal {
            user_id: spoken_for(&record.user_id, record.admin, named, user, default_user)?,
            ..record.principal()
        }),
        Caller::Token(bearer) => {
            let (scopes, bound) = (bearer.scopes, Some(Arc::clone(&bearer.user_id)));
            let admin = scopes.has(Scope::Admin);
            Ok(Principal {
                user_id: spoken_for(&bound, admin, named, user, default_user)?,
                api_key_id: None,
                scopes,
                models: None,
                key: None,
            })
        }
        Caller::Anyone { admin } => {
            let user = named.or(user).map(Arc::from);
            Ok(unbound(user.or_else(|| default_user.clone()), admin))
        }
        Caller::Process => {
            let asked = settings.config.auth.require_user_id;
            let local = || default_user.clone().or_else(|| Some("local".into()));
            let user = named.or(user).map(Arc::from);
            Ok(unbound(user.or_else(|| local().filter(|_| !asked)), true))
        }
    }
}

/// Who calls without a key of its own.
fn unbound(user_id: Option<Arc<str>>, admin: bool) -> Principal {
    Principal {
        user_id,
        api_key_id: None,
        scopes: match admin {
            true => Scopes::ALL,
            false => Scopes::CALLER,
        },
        models: None,
        key: None,
    }
}

/// Checks what a caller presents. Needs nothing of the request itself, so a door can do it before it reads a body.
///
/// # Errors
/// `missing_api_key`, `invalid_api_key`, `expired_api_key`, `auth_store_unavailable`.
pub(crate) async fn authenticate(inner: &Inner, credential: &Credential) -> Result<Caller> {
    let settings = inner.settings().clone();
    let auth = &settings.auth;
    let key = match credential {
        Credential::Established(caller) => return Ok(caller.clone()),
        Credential::Process => return Ok(Caller::Process),
        Credential::Anonymous => None,
        Credential::Key(key) => Some(key.expose_secret()),
    };
    if let (Some(key), Some(admin_key)) = (key, &auth.admin_key)
        && bool::from(key.as_bytes().ct_eq(admin_key.expose_secret().as_bytes()))
    {
        return Ok(Caller::Anyone { admin: true });
    }
    if let (Some(token), Some(jwt)) = (key.filter(|key| jwt::is_token(key)), &auth.jwt) {
        return Ok(Caller::Token(Arc::new(jwt.verify(token).await?)));
    }
    if let Some(key) = key.filter(|key| auth.mode == AuthMode::Keys || key.starts_with("lyss_")) {
        return match inner.keys.verify_or_refresh(key).await {
            KeyAnswer::Valid(record) => Ok(Caller::Key(record)),
            KeyAnswer::Invalid => Err(Error::new(
                ErrorKind::InvalidApiKey,
                "this API key is not valid here; create one with `lyss keys create`",
            )),
            KeyAnswer::Expired => Err(Error::new(
                ErrorKind::ExpiredApiKey,
                "this API key has expired; ask for a new one",
            )),
            KeyAnswer::Unknown => Err(Error::new(
                ErrorKind::AuthStoreUnavailable,
                "the key store cannot be reached and this key is not known here yet; try again",
            )),
        };
    }
    match auth.mode {
        AuthMode::Keys => Err(Error::new(
            ErrorKind::MissingApiKey,
            "send an API key as `Authorization: Bearer lyss_…`; create one with `lyss keys create`",
        )),
        // Without keys the admin surface is open only where nobody else can reach it, and no admin key was set.
        AuthMode::None => Ok(Caller::Anyone {
            admin: auth.loopback && auth.admin_key.is_none(),
        }),
    }
}

/// For whom a caller speaks that is bound to a user, or to none. Only admins speak for others.
fn spoken_for(
    bound: &Option<Arc<str>>,
    admin: bool,
    named: Option<&str>,
    user: Option<&str>,
    default_user: &Option<Arc<str>>,
) -> Result<Option<Arc<str>>> {
    if let (Some(bound), Some(named)) = (bound, named)
        && **bound != *named
        && !admin
    {
        return Err(Error::new(
            ErrorKind::UserMismatch,
            "this API key belongs to another user; leave `user_id` out or use that user's key",
        )
        .with_param("user_id"));
    }
    Ok(match (bound, named) {
        (Some(_), Some(named)) if admin => Some(named.into()),
        (Some(bound), _) => Some(Arc::clone(bound)),
        (None, named) => named
            .or(user)
            .map(Arc::from)
            .or_else(|| default_user.clone()),
    })
}
