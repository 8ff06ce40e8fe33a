//! The job queue in the database: leases, dead letters, expiry.

use std::time::Duration;

use ragway::store::{ClaimedJob, JobState, JobStep, NewJob, Retry, Store, StoreError, TenantId};
use secrecy::SecretString;
use uuid::Uuid;

use crate::harness::{catalog, execute, fresh_database};

const LEASE: Duration = Duration::from_secs(60);
const TENANT: TenantId = TenantId::DEFAULT;

async fn queue() -> (Store, SecretString) {
    let (url, admin_url) = fresh_database().await;
    (Store::connect(&url, &catalog().database).await.unwrap(), admin_url)
}

fn job(total: i64) -> NewJob {
    NewJob {
        key: None,
        kind: "test",
        payload: b"\0do it".to_vec(),
        total,
        max_attempts: 3,
        keep: Duration::from_secs(3600),
    }
}

async fn add(store: &Store, total: i64) -> Uuid {
    store.enqueue_job(TENANT, &job(total), 100).await.unwrap()
}

async fn claim(store: &Store) -> Option<ClaimedJob> {
    store.claim_job(&["test"], LEASE).await.unwrap()
}

async fn state(store: &Store, id: Uuid) -> JobState {
    store.job(TENANT, id).await.unwrap().unwrap().state
}

/// Lets every lease and pause end now.
async fn pass_time(admin_url: &SecretString) {
    execute(admin_url, "UPDATE jobs SET due_at = now() - interval '1 second'").await;
}

fn step(position: i64, outcome: &[u8]) -> JobStep<'_> {
    JobStep { position, done: position + 1, total: 2, outcome }
}

#[tokio::test]
async fn a_job_is_taken_worked_on_and_ended() {
    let (store, _) = queue().await;
    let id = add(&store, 2).await;
    assert_eq!(state(&store, id).await, JobState::Queued);
    let claimed = claim(&store).await.unwrap();
    assert_eq!((claimed.lease.job, claimed.payload.as_slice(), claimed.done), (id, &b"\0do it"[..], 0));
    assert_eq!(state(&store, id).await, JobState::Running);
    assert!(claim(&store).await.is_none(), "one job was taken twice");
    for position in [0, 1, 1] {
        store.record_step(&claimed.lease, step(position, &[position as u8])).await.unwrap();
    }
    store.renew_lease(&claimed.lease, LEASE).await.unwrap();
    store.finish_job(&claimed.lease, b"good").await.unwrap();
    let ended = store.job(TENANT, id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.done, ended.total), (JobState::Succeeded, 2, 2));
    assert_eq!(ended.result.as_deref(), Some(&b"good"[..]));
    assert!(ended.finished_at.is_some() && ended.expires_at.is_some());
    assert_eq!(store.job_steps(TENANT, id).await.unwrap(), [[0], [1]]);
}

#[tokio::test]
async fn many_workers_take_each_job_once() {
    let (store, _) = queue().await;
    let mut added = Vec::new();
    for _ in 0..20 {
        added.push(add(&store, 1).await);
    }
    let worker = async || {
        let mut taken = Vec::new();
        while let Some(claimed) = claim(&store).await {
            taken.push(claimed.lease.job);
        }
        taken
    };
    let taken = futures_util::future::join_all((0..4).map(|_| worker())).await;
    let mut all = taken.concat();
    all.sort();
    assert_eq!(all, added);
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_changes_nothing() {
    let (store, admin_url) = queue().await;
    let id = add(&store, 2).await;
    let lost = claim(&store).await.unwrap();
    store.record_step(&lost.lease, step(0, b"first")).await.unwrap();
    pass_time(&admin_url).await;
    let held = claim(&store).await.unwrap();
    assert_eq!((held.lease.job, held.done), (id, 1), "the second worker goes on where the first stopped");
    let refused = [
        store.record_step(&lost.lease, step(1, b"late")).await,
        store.renew_lease(&lost.lease, LEASE).await,
        store.finish_job(&lost.lease, b"late").await,
        store.fail_job(&lost.lease, "late", Retry::Never).await,
        store.fail_job(&lost.lease, "late", Retry::After(LEASE)).await,
        store.release_job(&lost.lease, Duration::ZERO).await,
    ];
    for result in refused {
        assert!(matches!(result, Err(StoreError::LeaseLost)), "{result:?}");
    }
    assert_eq!(store.job_steps(TENANT, id).await.unwrap(), [b"first"]);
    store.record_step(&held.lease, step(1, b"second")).await.unwrap();
    store.finish_job(&held.lease, b"").await.unwrap();
    let ended = store.job(TENANT, id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.error), (JobState::Succeeded, None));
}

#[tokio::test]
async fn a_job_that_loses_every_worker_is_given_up_and_kept() {
    let (store, admin_url) = queue().await;
    let id = add(&store, 2).await;
    for _ in 0..3 {
        claim(&store).await.unwrap();
        pass_time(&admin_url).await;
    }
    assert!(claim(&store).await.is_none());
    let letter = store.job(TENANT, id).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.attempts), (JobState::Failed, 3));
    assert!(letter.error.unwrap().contains("its worker was lost"));
}

#[tokio::test]
async fn progress_makes_attempts_count_anew() {
    let (store, admin_url) = queue().await;
    let id = add(&store, 9).await;
    for position in 0..8 {
        let claimed = claim(&store).await.unwrap();
        assert_eq!(claimed.done, position);
        store.record_step(&claimed.lease, step(position, b"")).await.unwrap();
        pass_time(&admin_url).await;
    }
    assert_eq!(state(&store, id).await, JobState::Running);
}

#[tokio::test]
async fn only_a_failure_that_may_pass_is_tried_again_and_not_for_ever() {
    let (store, admin_url) = queue().await;
    let hopeless = add(&store, 1).await;
    store.fail_job(&claim(&store).await.unwrap().lease, "no", Retry::Never).await.unwrap();
    assert_eq!(state(&store, hopeless).await, JobState::Failed);

    let unlucky = add(&store, 1).await;
    for attempt in 1..=3 {
        let claimed = claim(&store).await.unwrap();
        assert_eq!(claimed.attempts, attempt);
        store.fail_job(&claimed.lease, "busy", Retry::After(LEASE)).await.unwrap();
        assert!(claim(&store).await.is_none(), "it was not given its pause");
        pass_time(&admin_url).await;
    }
    let letter = store.job(TENANT, unlucky).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.error.as_deref()), (JobState::Failed, Some("busy")));
}

#[tokio::test]
async fn a_job_given_back_can_be_taken_at_once_and_has_lost_no_attempt() {
    let (store, _) = queue().await;
    let id = add(&store, 1).await;
    for _ in 0..5 {
        let claimed = claim(&store).await.unwrap();
        assert_eq!((claimed.lease.job, claimed.attempts), (id, 1));
        store.release_job(&claimed.lease, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn cancelling_ends_a_job_for_whoever_runs_it() {
    let (store, _) = queue().await;
    let (running, queued) = (add(&store, 2).await, add(&store, 2).await);
    let claimed = claim(&store).await.unwrap();
    for id in [running, queued] {
        let cancelled = store.cancel_job(TENANT, id).await.unwrap().unwrap();
        assert_eq!(cancelled.state, JobState::Cancelled);
    }
    assert!(claim(&store).await.is_none());
    let noticed = store.record_step(&claimed.lease, step(0, b"")).await;
    assert!(matches!(noticed, Err(StoreError::LeaseLost)));
    // What has ended stays as it ended.
    let done = add(&store, 1).await;
    store.finish_job(&claim(&store).await.unwrap().lease, b"").await.unwrap();
    assert_eq!(store.cancel_job(TENANT, done).await.unwrap().unwrap().state, JobState::Succeeded);
    assert_eq!(store.cancel_job(TENANT, Uuid::now_v7()).await.unwrap(), None);
}

#[tokio::test]
async fn a_job_is_seen_by_its_tenant_only() {
    let (store, _) = queue().await;
    let id = add(&store, 1).await;
    let other = TenantId(Uuid::now_v7());
    assert_eq!(store.job(other, id).await.unwrap(), None);
    assert_eq!(store.cancel_job(other, id).await.unwrap(), None);
    assert!(store.jobs(other, 10).await.unwrap().is_empty());
    assert_eq!(state(&store, id).await, JobState::Queued);
    assert_eq!(store.jobs(TENANT, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_tenant_has_so_many_open_jobs_and_no_more() {
    let (store, _) = queue().await;
    let job = job(1);
    let added = futures_util::future::join_all((0..6).map(|_| store.enqueue_job(TENANT, &job, 4))).await;
    assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 4, "{added:?}");
    assert!(added.iter().any(|added| matches!(added, Err(StoreError::TooManyJobs(4)))));
    store.finish_job(&claim(&store).await.unwrap().lease, b"").await.unwrap();
    store.enqueue_job(TENANT, &job, 4).await.unwrap();
}

#[tokio::test]
async fn what_has_expired_is_gone_and_swept_in_portions() {
    let (store, admin_url) = queue().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(add(&store, 1).await);
        let claimed = claim(&store).await.unwrap();
        store.record_step(&claimed.lease, step(0, b"")).await.unwrap();
        store.finish_job(&claimed.lease, b"").await.unwrap();
    }
    let open = add(&store, 1).await;
    assert_eq!(store.sweep_jobs(10).await.unwrap(), 0);
    execute(&admin_url, "UPDATE jobs SET expires_at = now() - interval '1 second' WHERE state = 'succeeded'")
        .await;
    assert_eq!(store.job(TENANT, ids[0]).await.unwrap(), None, "an expired job was shown");
    assert_eq!(store.sweep_jobs(2).await.unwrap(), 2);
    assert_eq!(store.sweep_jobs(2).await.unwrap(), 1);
    assert_eq!(state(&store, open).await, JobState::Queued);
    assert!(store.job_steps(TENANT, ids[0]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_leaves_kinds_alone_that_it_does_not_know() {
    let (store, _) = queue().await;
    add(&store, 1).await;
    assert!(store.claim_job(&["other"], LEASE).await.unwrap().is_none());
}
