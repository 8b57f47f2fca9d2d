//! `/exec` and `/attach`: what is asked for, and the session that follows the upgrade.

use std::sync::PoisonError;

use futures_util::FutureExt;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use runtime::client::{ExecSession, Runtime};
use runtime::protocol::ExecSpec;

use super::channels::{self, Protocol};
use super::query::Query;
use super::session::{self, Streams};
use super::{After, Answer, KubeletApi, Refusal, running_id, upgrade};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Exec,
    Attach,
}

/// What a client wants to do in a container.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) verb: Verb,
    pub(super) id: String,
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

pub(super) async fn answer(
    api: &KubeletApi,
    mut request: Request<Incoming>,
    target: (&str, &str, &str),
    verb: Verb,
    after: &After,
) -> Answer {
    let (namespace, pod, container) = target;
    let plan = plan(api, &request, (namespace, pod, container), verb)?;
    let key = upgrade::check(request.headers())?;
    let (name, protocol) = channels::choose(&upgrade::offered(request.headers())).ok_or_else(|| {
        Refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: none of the requested sub-protocols is supported, use v5.channel.k8s.io".to_owned(),
        )
    })?;
    let runtime = api.ctx.config.runtime.clone();
    let upgraded = hyper::upgrade::on(&mut request);
    let work = async move {
        if let Some(socket) = upgrade::socket(upgraded).await {
            run(runtime, socket, plan, protocol).await;
        }
    };
    *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.boxed());
    upgrade::accept(&key, name)
}

fn plan(
    api: &KubeletApi,
    request: &Request<Incoming>,
    (namespace, pod, container): (&str, &str, &str),
    verb: Verb,
) -> Result<Plan, Refusal> {
    let query = Query::parse(request.uri().query());
    let view = api.pod(namespace, pod)?;
    let view = view.borrow();
    let id = running_id(&view, container).ok_or_else(|| {
        let text = format!("container not found ({container:?})");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let command = query.all("command");
    if verb == Verb::Exec && command.is_empty() {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command".to_owned(),
        ));
    }
    let spec =
        view.pod.spec.iter().flat_map(crate::resources::containers).find(|c| c.name == container);
    let tty = match verb {
        Verb::Exec => query.flag("tty"),
        Verb::Attach => spec.is_some_and(|c| c.tty == Some(true)),
    };
    let plan = Plan {
        verb,
        id,
        command,
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error") && !tty,
        tty,
    };
    if !plan.stdin && !plan.stdout && !plan.stderr {
        let text = "you must specify at least 1 of stdin, stdout, stderr".to_owned();
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    Ok(plan)
}

async fn run(runtime: Runtime, mut socket: upgrade::Socket, plan: Plan, protocol: Protocol) {
    let (mut size, mut early) = (None, Vec::new());
    if plan.verb == Verb::Exec && plan.tty {
        (size, early) = session::first_size(&mut socket, protocol).await;
    }
    let made = match plan.verb {
        Verb::Exec => {
            let spec = ExecSpec {
                args: plan.command.clone(),
                tty: plan.tty,
                stdin: plan.stdin,
                size,
                ..ExecSpec::default()
            };
            runtime.exec(&plan.id, &spec).await
        }
        Verb::Attach => runtime.attach(&plan.id, plan.stdin).await,
    };
    let result = made.map_err(|e| e.to_string()).and_then(|session: ExecSession| {
        let id = session.id;
        Streams::new(session, &plan).map(|streams| (id, streams)).map_err(|e| e.to_string())
    });
    session::run(runtime, socket, plan, protocol, result, early).await;
}
