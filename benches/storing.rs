//! Passages stored as ragway does it, by arrays in INSERT, against binary COPY: `cargo bench --bench storing`.
//!
//! Row-level security lets the application's role COPY into no table of tenants (PostgreSQL refuses it), so COPY
//! goes into temporary tables and from there by INSERT. Each way is a transaction on empty tables with their
//! indexes, in turns of one run. Works in a temporary folder, with PostgreSQL from `target/test-cache` (or
//! `RAGWAY_TEST_CACHE`).
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod common;

use std::{pin::pin, time::Instant};

use pgvector::Vector;
use ragway::{
    app::postgres_wheel,
    assets::Assets,
    config::{Config, EmbeddingSpace},
    demo,
    store::{Store, TenantId, embedded::EmbeddedPostgres, migrate},
};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{
    Client, NoTls, Transaction,
    binary_copy::BinaryCopyInWriter,
    types::{Kind, ToSql, Type},
};
use uuid::Uuid;

const TURNS: usize = 3;
const DIMENSION: usize = 384;
/// Passages of one statement, as in `store/documents`.
const BATCH: usize = 256;

struct Passage {
    id: Uuid,
    ordinal: i32,
    content: String,
    vector: Vector,
    hash: Vec<u8>,
}

struct Bench {
    application: Client,
    owner: Client,
    vector: Type,
    vector_array: Type,
    collection: Uuid,
    document: Uuid,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = common::config_in(folder.path())?;
    let assets = Assets::new(&config.home, true)?;
    let pg0 = assets.obtain_postgres(postgres_wheel(&config.catalog)?).await?;
    let server = EmbeddedPostgres::start(&config.home, &pg0).await?;
    migrate(&server.admin_url(), Some("ragway")).await?;
    let mut bench = Bench::new(&server, &config).await?;
    for count in [100, 1_000, 10_000] {
        bench.compare(count).await?;
    }
    drop(bench);
    Ok(server.stop().await?)
}

impl Bench {
    async fn new(server: &EmbeddedPostgres, config: &Config) -> anyhow::Result<Self> {
        let store = Store::connect(&server.url(), &config.catalog.database).await?;
        let space = EmbeddingSpace { id: "bench".into(), model: "bench".into(), dimension: DIMENSION };
        let collection = store.create_collection(TenantId::DEFAULT, "bench", &space).await?;
        let (application, owner) = (connect(&server.url()).await?, connect(&server.admin_url()).await?);
        let row = owner
            .query_one("SELECT oid, typarray FROM pg_type WHERE oid = to_regtype('vector')", &[])
            .await?;
        let vector = Type::new("vector".into(), row.get(0), Kind::Simple, "public".into());
        let array = Kind::Array(vector.clone());
        let vector_array = Type::new("_vector".into(), row.get(1), array, "public".into());
        let document = Uuid::now_v7();
        owner
            .execute(
                "INSERT INTO documents (id, tenant_id, collection_id, content_hash, format, content)
                 VALUES ($1, $2, $3, '', 'text/plain', '')",
                &[&document, &TenantId::DEFAULT.0, &collection.id],
            )
            .await?;
        Ok(Self { application, owner, vector, vector_array, collection: collection.id, document })
    }

    async fn compare(&mut self, count: usize) -> anyhow::Result<()> {
        for turn in 0..TURNS {
            let passages = passages(count);
            let mut ms = [0.0; 4];
            for (way, ms) in ms.iter_mut().enumerate() {
                self.owner.batch_execute("TRUNCATE passages CASCADE").await?;
                let started = Instant::now();
                self.store(way, &passages).await?;
                *ms = started.elapsed().as_secs_f64() * 1e3;
            }
            let [insert, copy, arrives, copied] = ms;
            println!(
                "{count} passages, turn {turn}: INSERT {insert:.0} ms, COPY {copy:.0} ms, ratio {:.2}; \
                 into a temporary table alone: INSERT {arrives:.0} ms, COPY {copied:.0} ms",
                insert / copy
            );
        }
        Ok(())
    }

    async fn store(&mut self, way: usize, passages: &[Passage]) -> anyhow::Result<()> {
        let (vector, array) = (self.vector.clone(), self.vector_array.clone());
        let (collection, document) = (self.collection, self.document);
        let transaction = self.application.transaction().await?;
        transaction
            .query_typed(
                "SELECT set_config('app.tenant', $1, true), set_config('ragway.terms', 'written', true)",
                &[(&TenantId::DEFAULT.0.to_string(), Type::TEXT)],
            )
            .await?;
        let place: [(&(dyn ToSql + Sync), Type); 3] =
            [(&TenantId::DEFAULT.0, Type::UUID), (&collection, Type::UUID), (&document, Type::UUID)];
        match way {
            0 => {
                for batch in passages.chunks(BATCH) {
                    insert(&transaction, PASSAGES, &place, batch, array.clone()).await?;
                    let (ids, texts) = terms(batch);
                    let terms = [(&ids as _, Type::UUID_ARRAY), (&texts as _, Type::TEXT_ARRAY)];
                    let source = "unnest($1::uuid[], $2::text[]) AS new (id, text)";
                    transaction.query_typed(&format!("{TERMS} FROM {source} {INDEXED}"), &terms).await?;
                }
            }
            1 => {
                copy(&transaction, passages, vector).await?;
                let from = format!("{PASSAGES} FROM arrived");
                transaction.query_typed(&from, &place).await?;
                copy_terms(&transaction, passages).await?;
                transaction.query_typed(&format!("{TERMS} FROM words new {INDEXED}"), &[]).await?;
            }
            2 => {
                transaction.batch_execute(ARRIVED).await?;
                for batch in passages.chunks(BATCH) {
                    insert(&transaction, "INSERT INTO arrived SELECT *", &[], batch, array.clone()).await?;
                }
            }
            _ => copy(&transaction, passages, vector).await?,
        }
        Ok(transaction.commit().await?)
    }
}

const ARRIVED: &str = "CREATE TEMPORARY TABLE arrived (id uuid, ordinal int, content text, embedding vector,
    embedded_hash bytea) ON COMMIT DROP";
const PASSAGES: &str =
    "INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, metadata, ordinal,
        content, embedding, embedded_hash)
    SELECT id, $1, $2, 'bench', $3, '{}', ordinal, content, embedding, embedded_hash";
const TERMS: &str = "INSERT INTO passage_terms (passage_id, tenant_id, index_id, language, words, terms)
    SELECT p.id, i.tenant_id, i.id, 'english', 100,
           to_tsvector('pg_catalog.english', new.text) || array_to_tsvector(ARRAY['@' || i.id])";
const INDEXED: &str = "JOIN passages p ON p.id = new.id JOIN lexical_indexes i
    ON (i.collection_id, i.tenant_id, i.space_id) = (p.collection_id, p.tenant_id, p.space_id)";

async fn insert(
    transaction: &Transaction<'_>,
    into: &str,
    place: &[(&(dyn ToSql + Sync), Type)],
    batch: &[Passage],
    vector_array: Type,
) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = batch.iter().map(|passage| passage.id).collect();
    let ordinals: Vec<i32> = batch.iter().map(|passage| passage.ordinal).collect();
    let contents: Vec<&str> = batch.iter().map(|passage| passage.content.as_str()).collect();
    let vectors: Vec<&Vector> = batch.iter().map(|passage| &passage.vector).collect();
    let hashes: Vec<&[u8]> = batch.iter().map(|passage| passage.hash.as_slice()).collect();
    let n = place.len();
    let statement = format!(
        "{into} FROM unnest(${}::uuid[], ${}::int[], ${}::text[], ${}::vector[], ${}::bytea[])
         AS new (id, ordinal, content, embedding, embedded_hash)",
        n + 1,
        n + 2,
        n + 3,
        n + 4,
        n + 5
    );
    let columns: [(&(dyn ToSql + Sync), Type); 5] = [
        (&ids, Type::UUID_ARRAY),
        (&ordinals, Type::INT4_ARRAY),
        (&contents, Type::TEXT_ARRAY),
        (&vectors, vector_array),
        (&hashes, Type::BYTEA_ARRAY),
    ];
    transaction.query_typed(&statement, &[place, &columns].concat()).await?;
    Ok(())
}

async fn copy(transaction: &Transaction<'_>, passages: &[Passage], vector: Type) -> anyhow::Result<()> {
    transaction.batch_execute(ARRIVED).await?;
    let sink = transaction.copy_in("COPY arrived FROM STDIN (FORMAT binary)").await?;
    let types = [Type::UUID, Type::INT4, Type::TEXT, vector, Type::BYTEA];
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for Passage { id, ordinal, content, vector, hash } in passages {
        writer.as_mut().write(&[id, ordinal, content, vector, hash]).await?;
    }
    writer.finish().await?;
    Ok(())
}

async fn copy_terms(transaction: &Transaction<'_>, passages: &[Passage]) -> anyhow::Result<()> {
    transaction.batch_execute("CREATE TEMPORARY TABLE words (id uuid, text text) ON COMMIT DROP").await?;
    let sink = transaction.copy_in("COPY words FROM STDIN (FORMAT binary)").await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::UUID, Type::TEXT]));
    for passage in passages {
        writer.as_mut().write(&[&passage.id, &passage.content]).await?;
    }
    writer.finish().await?;
    Ok(())
}

fn terms(passages: &[Passage]) -> (Vec<Uuid>, Vec<&str>) {
    passages.iter().map(|passage| (passage.id, passage.content.as_str())).unzip()
}

/// Of some hundred characters, with unit vectors in any direction.
fn passages(count: usize) -> Vec<Passage> {
    let texts: Vec<&str> = demo::DOCUMENTS
        .iter()
        .flat_map(|document| document.text.split("\n\n"))
        .filter(|text| text.len() > 200)
        .collect();
    let passage = |n: usize| {
        let numbers: Vec<f32> = (0..DIMENSION).map(|_| rand::random::<f32>() - 0.5).collect();
        let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
        Passage {
            id: Uuid::now_v7(),
            ordinal: n as i32,
            content: format!("Passage {n}. {}", texts[n % texts.len()]),
            vector: Vector::from(numbers.iter().map(|number| number / length).collect::<Vec<f32>>()),
            hash: vec![7; 32],
        }
    };
    (0..count).map(passage).collect()
}

async fn connect(url: &SecretString) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
