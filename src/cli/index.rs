//! `ragway index`

use std::process::ExitCode;

use anyhow::{Result, bail};
use ragway::{
    config::Config,
    rag::{
        DEFAULT_COLLECTION,
        filters::parse_filter_text,
        index_advice::{IndexFacts, advise, estimated_bytes},
        recall::{Latency, RecallReport, measure_recall},
    },
    store::{
        BuildProgress, BuildResources, BuildStatus, Collection, IndexAdmin, IndexKind, IndexSpec, Store,
        TenantId,
    },
};
use secrecy::SecretString;

const TENANT: TenantId = TenantId::DEFAULT;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say which index each collection is searched with, how large it is, and what is being built.
    Status,
    /// Say which index would suit each collection, and why.
    Advise,
    /// Build an index while documents are searched and stored.
    Rebuild {
        #[arg(default_value = DEFAULT_COLLECTION)]
        collection: String,
        /// `hnsw`, `halfvec`, `binary` or `exact`: of the collection's own; `shared`: that of its space
        /// [default: the kind it has]
        #[arg(long)]
        kind: Option<String>,
        /// Links of a vector, 2 to 100.
        #[arg(long)]
        m: Option<u32>,
        /// Candidates while a vector is inserted, 4 to 1000.
        #[arg(long)]
        ef_construction: Option<u32>,
        /// Candidates of a search, 1 to 1000. Where nothing else changes, nothing is built.
        #[arg(long)]
        ef_search: Option<u32>,
        #[command(flatten)]
        resources: Resources,
    },
    /// Measure how much of what comparing every vector finds is found, and how fast.
    Recall {
        #[arg(default_value = DEFAULT_COLLECTION)]
        collection: String,
        #[arg(long, default_value_t = 10)]
        k: usize,
        /// Stored vectors to search for, chosen by chance.
        #[arg(long, default_value_t = 100)]
        queries: usize,
        /// A condition on metadata, in JSON.
        #[arg(long, value_name = "JSON")]
        filter: Option<String>,
        /// Candidates of a search, 1 to 1000, for this measurement.
        #[arg(long)]
        ef_search: Option<u32>,
    },
    /// Give order comparisons (gt, gte, lt, lte) on a key of the metadata an index.
    Field {
        key: String,
        #[arg(long, default_value = DEFAULT_COLLECTION)]
        collection: String,
        /// Take it away.
        #[arg(long)]
        drop: bool,
        #[command(flatten)]
        resources: Resources,
    },
}

#[derive(clap::Args, Clone, Copy)]
pub struct Resources {
    /// Memory of the build; while an index fits into it, building is several times faster.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    memory_mb: u32,
    /// Processes beside the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    workers: u32,
}

impl From<Resources> for BuildResources {
    fn from(resources: Resources) -> Self {
        Self { memory_mb: resources.memory_mb, workers: resources.workers }
    }
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_database(config, async |store, admin_url| {
        match command {
            Command::Status => status(store, admin_url).await?,
            Command::Advise => print_advice(store).await?,
            Command::Recall { collection, k, queries, filter, ef_search } => {
                let filter = filter.as_deref().map(parse_filter_text).transpose()?.flatten();
                let mut collection = store.collection(TENANT, &collection).await?;
                let spec = &mut collection.index.spec;
                spec.ef_search = ef_search.unwrap_or(spec.ef_search);
                spec.check(collection.space.dimension)?;
                let report = measure_recall(store, TENANT, &collection, filter.as_ref(), k, queries).await?;
                print_recall(&report, &collection, k);
            }
            Command::Rebuild { collection, kind, m, ef_construction, ef_search, resources } => {
                let collection = store.counted_collection(TENANT, &collection).await?;
                let wanted = Wanted { kind, m, ef_construction, ef_search };
                rebuild(store, admin_url, &collection, wanted, resources.into()).await?;
            }
            Command::Field { key, collection, drop, resources } => {
                let collection = store.collection(TENANT, &collection).await?;
                let admin = IndexAdmin::connect(admin_url).await?;
                if drop {
                    if !admin.drop_field(TENANT, &collection, &key).await? {
                        bail!("`{key}` has no index in `{}`", collection.name);
                    }
                    println!("the index on `{key}` of `{}` is gone", collection.name);
                } else {
                    let bar = Bar::new();
                    let resources = resources.into();
                    admin.declare_field(TENANT, &collection, &key, resources, |p| bar.show(&p)).await?;
                    println!("order comparisons on `{key}` of `{}` use an index now", collection.name);
                }
                admin.close().await;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// Recall below which something should be done.
const LOW_RECALL: f64 = 0.95;

fn print_recall(report: &RecallReport, collection: &Collection, k: usize) {
    println!("queries     {} vectors of `{}`, k = {k}", report.queries, collection.name);
    println!("recall@{k:<4} {:.4}, worst {:.4}", report.recall, report.worst);
    println!(
        "plans       {} index, {} index then exact, {} exact",
        report.through_index,
        report.index_then_exact,
        report.queries - report.through_index - report.index_then_exact
    );
    println!("search      {}", milliseconds(report.search));
    println!("exact       {}", milliseconds(report.exact));
    let IndexSpec { m, ef_construction, ef_search, .. } = collection.index.spec;
    if report.recall < LOW_RECALL && report.through_index > 0 {
        println!(
            "That is low. More candidates find more and take longer: --ef-search {} tries it here, and \
             `ragway index rebuild {name} --ef-search` sets it. More links do too, with another build: \
             `ragway index rebuild {name} --m {} --ef-construction {}`.",
            (4 * ef_search).min(1000),
            (2 * m).min(100),
            (3 * ef_construction).min(1000),
            name = collection.name
        );
    }
}

struct Wanted {
    kind: Option<String>,
    m: Option<u32>,
    ef_construction: Option<u32>,
    ef_search: Option<u32>,
}

impl Wanted {
    /// What is not given stays as it is. `None`: the shared index.
    fn spec(&self, collection: &Collection) -> Result<Option<IndexSpec>> {
        let settings = self.m.or(self.ef_construction).or(self.ef_search).is_some();
        let kind = match self.kind.as_deref() {
            Some("shared") if settings => {
                bail!("the shared index has fixed settings: give --kind hnsw, halfvec or binary with them")
            }
            Some("shared") => return Ok(None),
            Some(name) => {
                name.parse::<IndexKind>().map_err(|told| anyhow::anyhow!("--kind: {told}, shared"))?
            }
            None if !collection.index.own && !settings => return Ok(None),
            None => collection.index.spec.kind,
        };
        let before = if collection.index.own { collection.index.spec } else { IndexSpec::new(kind) };
        Ok(Some(IndexSpec {
            kind,
            m: self.m.unwrap_or(before.m),
            ef_construction: self.ef_construction.unwrap_or(before.ef_construction),
            ef_search: self.ef_search.unwrap_or(before.ef_search),
        }))
    }
}

async fn rebuild(
    store: &Store,
    admin_url: &SecretString,
    collection: &Collection,
    wanted: Wanted,
    resources: BuildResources,
) -> Result<()> {
    let spec = wanted.spec(collection)?;
    if let Some(spec) = &spec {
        spec.check(collection.space.dimension)?;
        let needed = estimated_bytes(spec, collection.passages, collection.space.dimension);
        if needed > u64::from(resources.memory_mb) << 20 {
            eprintln!(
                "note: the index is about {}; with --memory-mb {} it would be built faster",
                megabytes(needed),
                (needed >> 20) + (needed >> 22) + 1
            );
        }
    }
    let built = store.built_index(collection).await?.is_some_and(|index| index.valid);
    let admin = IndexAdmin::connect(admin_url).await?;
    let bar = Bar::new();
    match spec {
        Some(spec) if built && collection.index.differs_in_search_only(spec) => {
            admin.set_ef_search(TENANT, collection, spec.ef_search).await?;
            println!("searches look at {} candidates now; the index is the same", spec.ef_search);
        }
        Some(spec) => admin.build_own(TENANT, collection, spec, resources, |p| bar.show(&p)).await?,
        None => admin.share(TENANT, collection, resources, |p| bar.show(&p)).await?,
    }
    admin.close().await;
    drop(bar);
    println!("{}", described(store, &store.counted_collection(TENANT, &collection.name).await?).await?);
    Ok(())
}

async fn status(store: &Store, admin_url: &SecretString) -> Result<()> {
    let collections = store.collections(TENANT).await?;
    if collections.is_empty() {
        println!("there are no collections yet");
    }
    for collection in collections {
        println!("{}", described(store, &collection).await?);
    }
    let builds = BuildStatus::look(admin_url).await?;
    if let Some(running) = builds.running {
        println!("building: {}, {} of {}", running.phase, running.done, running.total);
    }
    for name in builds.leftovers {
        println!(
            "leftover of an interrupted build or a deleted collection: {name} (the next build drops it)"
        );
    }
    Ok(())
}

/// One line about the index of a collection.
async fn described(store: &Store, collection: &Collection) -> Result<String> {
    let IndexSpec { kind, m, ef_construction, ef_search } = collection.index.spec;
    let whose = if collection.index.own { "own" } else { "shared" };
    let settings =
        format!("{whose} {} (m {m}, ef_construction {ef_construction}, ef_search {ef_search})", kind.name());
    let index = match store.built_index(collection).await? {
        _ if kind == IndexKind::Exact => "no index: every vector is compared".to_owned(),
        Some(built) if built.valid => {
            format!("{settings}, {} for {} vectors", megabytes(built.bytes.unsigned_abs()), built.rows)
        }
        Some(_) => format!("{settings}, being built or its build was interrupted: every vector is compared"),
        None => format!(
            "{settings}, not built yet: every vector is compared; `ragway index rebuild {}` builds it",
            collection.name
        ),
    };
    let fields = match collection.fields.as_slice() {
        [] => String::new(),
        fields => format!("; ordered fields: {}", fields.join(", ")),
    };
    let (name, passages, dimension) = (&collection.name, collection.passages, collection.space.dimension);
    Ok(format!("{name}: {passages} passages of {dimension} dimensions; {index}{fields}"))
}

async fn print_advice(store: &Store) -> Result<()> {
    for collection in store.collections(TENANT).await? {
        let shared_rows = store.shared_index_rows(&collection).await?;
        let (passages, dimension) = (collection.passages, collection.space.dimension);
        let advice = advise(&IndexFacts { passages, dimension, shared_rows });
        let (kind, whose) = match advice.own {
            Some(kind) => (kind, "own"),
            None => (IndexKind::shared(dimension), "shared"),
        };
        println!(
            "{}: {whose} {}, about {} for its {passages} passages: {}",
            collection.name,
            kind.name(),
            megabytes(advice.bytes),
            advice.reason
        );
        let wanted = advice.own.map_or("shared", IndexKind::name);
        let current = if collection.index.own { collection.index.spec.kind.name() } else { "shared" };
        if wanted != current {
            println!("  ragway index rebuild {} --kind {wanted}", collection.name);
        }
    }
    Ok(())
}

/// The phase and progress of a build, on stderr; hidden where that is no terminal.
struct Bar(indicatif::ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(super::bar(0))
    }

    fn show(&self, progress: &BuildProgress) {
        self.0.set_message(progress.phase.replace("building index: ", ""));
        self.0.set_length(progress.total.unsigned_abs());
        self.0.set_position(progress.done.unsigned_abs());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn milliseconds(latency: Latency) -> String {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    format!("median {:.1} ms, P95 {:.1} ms", ms(latency.median), ms(latency.p95))
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
