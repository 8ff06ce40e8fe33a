//! Vector indexes: that of a space, and those that collections have of their own.
//!
//! A space has one HNSW index over the passages of all its collections, which
//! costs small collections nothing. A collection may have its own, over its
//! passages alone and of a kind that it chooses; searches of it use that one.

mod admin;
mod status;

pub use admin::{BuildProgress, BuildResources, IndexAdmin};
pub(super) use admin::{Driver, formatted, open};
pub use status::{BuildStatus, BuiltIndex};

use tokio_postgres::Row;

use super::StoreError;

/// Why an index was not built, or removed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// What was asked for cannot be; the message says what can.
    #[error("{0}")]
    Invalid(String),
    /// One at a time: a build takes memory and much of the disk's time.
    #[error(
        "another ragway is building an index in this database; `ragway index status` shows how far it is"
    )]
    Busy,
    /// The build failed; what it left was removed.
    #[error("the index was not built, and searches are as before: {0}")]
    Failed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for IndexError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// How vectors are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexKind {
    /// HNSW over 32-bit floats; up to 2000 dimensions.
    Hnsw,
    /// HNSW over 16-bit floats, half the size; up to 4000 dimensions.
    Halfvec,
    /// HNSW over the signs of the components, a thirty-second of the size; candidates are
    /// compared again by their whole vectors.
    Binary,
    /// No index: every vector is compared.
    Exact,
}

impl IndexKind {
    /// All of them, from the most exact index to none.
    pub const ALL: [IndexKind; 4] = [Self::Hnsw, Self::Halfvec, Self::Binary, Self::Exact];

    /// Its name on the command line and in the database.
    pub fn name(self) -> &'static str {
        match self {
            IndexKind::Hnsw => "hnsw",
            IndexKind::Halfvec => "halfvec",
            IndexKind::Binary => "binary",
            IndexKind::Exact => "exact",
        }
    }

    /// Largest dimension that pgvector indexes so.
    pub fn max_dimension(self) -> usize {
        match self {
            IndexKind::Hnsw => 2000,
            IndexKind::Halfvec => 4000,
            IndexKind::Binary => 64_000,
            IndexKind::Exact => usize::MAX,
        }
    }

    /// That of a space's shared index.
    pub fn shared(dimension: usize) -> Self {
        let fits = |kind: &IndexKind| dimension <= kind.max_dimension();
        [Self::Hnsw, Self::Halfvec].into_iter().find(fits).unwrap_or(Self::Exact)
    }

    /// Bytes of a vector in the index.
    pub fn vector_bytes(self, dimension: usize) -> usize {
        match self {
            IndexKind::Hnsw => 8 + 4 * dimension,
            IndexKind::Halfvec => 8 + 2 * dimension,
            IndexKind::Binary => 8 + dimension.div_ceil(8),
            IndexKind::Exact => 0,
        }
    }

    /// What is indexed of `column`, letter for letter as in the index's definition.
    pub(super) fn expression(self, column: &str, dimension: usize) -> String {
        match self {
            IndexKind::Hnsw => format!("{column}::vector({dimension})"),
            IndexKind::Halfvec => format!("{column}::halfvec({dimension})"),
            IndexKind::Binary => format!("binary_quantize({column})::bit({dimension})"),
            IndexKind::Exact => column.to_owned(),
        }
    }

    /// The same for an index of a collection's own. Where the shared index could be of this kind, it
    /// is written in another way: a planner that could take either would take the cheaper one.
    fn own_expression(self, column: &str, dimension: usize) -> String {
        let expression = self.expression(column, dimension);
        match self {
            IndexKind::Hnsw => format!("subvector({expression}, 1, {dimension})::vector({dimension})"),
            IndexKind::Halfvec => format!("subvector({expression}, 1, {dimension})::halfvec({dimension})"),
            IndexKind::Binary | IndexKind::Exact => expression,
        }
    }

    pub(super) fn operator_class(self) -> &'static str {
        match self {
            IndexKind::Hnsw | IndexKind::Exact => "vector_cosine_ops",
            IndexKind::Halfvec => "halfvec_cosine_ops",
            IndexKind::Binary => "bit_hamming_ops",
        }
    }

    /// Candidates that are taken from the index and compared again, to have `k` of them right.
    pub(super) fn candidates(self, k: usize) -> usize {
        match self {
            IndexKind::Hnsw | IndexKind::Exact => k,
            IndexKind::Halfvec => k + k / 2 + 10,
            IndexKind::Binary => 10 * k + 100,
        }
    }
}

impl std::str::FromStr for IndexKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("unknown index kind `{name}`; known are hnsw, halfvec, binary, exact"))
    }
}

/// How an index is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSpec {
    pub kind: IndexKind,
    /// Links of a vector in each layer, 2 to 100.
    pub m: u32,
    /// Candidates while a vector is inserted, 4 to 1000 and at least 2 × `m`.
    pub ef_construction: u32,
    /// Candidates of a search, 1 to 1000.
    pub ef_search: u32,
}

impl IndexSpec {
    /// pgvector's own settings for building, and more candidates for searching: its 40 could
    /// not return more than 40 rows in one pass.
    pub const fn new(kind: IndexKind) -> Self {
        Self { kind, m: 16, ef_construction: 64, ef_search: 100 }
    }

    /// What is wrong with it for vectors of this dimension.
    pub fn check(&self, dimension: usize) -> Result<(), IndexError> {
        let wrong = |what: String| Err(IndexError::Invalid(what));
        let Self { kind, m, ef_construction, ef_search } = *self;
        if dimension > kind.max_dimension() {
            let most = kind.max_dimension();
            return wrong(format!("{} indexes up to {most} dimensions, these have {dimension}", kind.name()));
        }
        if !(2..=100).contains(&m) {
            return wrong(format!("m must be between 2 and 100, is {m}"));
        }
        if !(4..=1000).contains(&ef_construction) || ef_construction < 2 * m {
            return wrong(format!(
                "ef_construction must be between 4 and 1000 and at least 2 × m, is {ef_construction} with m = {m}"
            ));
        }
        if !(1..=1000).contains(&ef_search) {
            return wrong(format!("ef_search must be between 1 and 1000, is {ef_search}"));
        }
        Ok(())
    }
}

/// The index that searches of a collection use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorIndex {
    pub spec: IndexSpec,
    /// Whether it is the collection's own, not that of its space.
    pub own: bool,
    /// Name in the database; absent for [`IndexKind::Exact`]. Whether it is there and whole is
    /// looked up by each search.
    pub name: Option<String>,
    /// Name that the index of the collection's space has, where there is one.
    shared_name: String,
}

/// An ORDER BY over `p` by the distance to `vector`, a placeholder, that no index answers.
pub(super) fn exact_order(vector: &str) -> String {
    format!("p.embedding <=> {vector}")
}

impl VectorIndex {
    /// An ORDER BY over `p` by the distance to `vector`, a placeholder, that only this index answers.
    pub(super) fn order(&self, dimension: usize, vector: &str) -> String {
        let kind = self.spec.kind;
        let of_row = match self.own {
            true => kind.own_expression("p.embedding", dimension),
            false => kind.expression("p.embedding", dimension),
        };
        let operator = if kind == IndexKind::Binary { "<~>" } else { "<=>" };
        format!("{of_row} {operator} {}", kind.expression(vector, dimension))
    }

    /// Whether an index by `spec` would be built like this one, the collection's own, and only be searched otherwise.
    pub fn differs_in_search_only(&self, spec: IndexSpec) -> bool {
        self.own && self.spec != spec && IndexSpec { ef_search: self.spec.ef_search, ..spec } == self.spec
    }

    /// From the columns `index_*` and `shared_index` of a collection's row.
    pub(super) fn from_row(row: &Row, dimension: usize) -> Self {
        let shared_name: String = row.get("shared_index");
        match row.get::<_, Option<String>>("index_kind").and_then(|kind| kind.parse().ok()) {
            Some(kind) => {
                let number = |column: &str| u32::try_from(row.get::<_, i32>(column)).unwrap_or(0);
                let (m, ef_construction) = (number("index_m"), number("index_ef_construction"));
                let spec = IndexSpec { kind, m, ef_construction, ef_search: number("index_ef_search") };
                Self { spec, own: true, name: row.get("index_name"), shared_name }
            }
            None => {
                let kind = IndexKind::shared(dimension);
                let name = (kind != IndexKind::Exact).then(|| shared_name.clone());
                Self { spec: IndexSpec::new(kind), own: false, name, shared_name }
            }
        }
    }
}
