//! Rows brought under the key that is written with, while others read and write them.
//!
//! A batch is one short transaction. It locks rows that nobody else has locked and so never waits while it
//! holds some; what it had to leave, and what was written under an old key meanwhile, the next pass finds. A pass goes
//! along the ids, so that an interrupted one leaves nothing half done, and the next begins where there is something to do.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio_postgres::{Row, Transaction, error::SqlState, types::Type};
use uuid::Uuid;

use super::{
    ANSWER, ANSWER_COMMENT, ANSWER_QUESTION, DOCUMENT_CONTENT, DOCUMENT_IMAGE, JOB_PAYLOAD, JOB_RESULT,
    PASSAGE_CONTENT, PASSAGE_HASH, PASSAGE_HEADING, PassageText, STEP_OUTCOME, SealError, Seals,
    insert_passage_texts,
    rows::{BytesColumn, TwinColumn},
};
use crate::{
    config::KeyId,
    store::{Store, StoreError, TenantId, filter::Parameters},
};

/// A table whose rows are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedTable {
    Documents,
    Passages,
    Answers,
    Jobs,
    JobSteps,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    /// Rows that were written anew.
    pub rows: Vec<(SealedTable, u64)>,
    /// The key that rows are sealed with now; none: they are plain.
    pub key: Option<KeyId>,
    /// Rows that others held, or wrote with another key, all the time.
    pub left: i64,
}

/// Keys that are not written with any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetiredKeys {
    /// No row is sealed with them, nor ever will be: nobody needs them.
    pub retired: Vec<KeyId>,
    /// Rows are still sealed with them.
    pub in_use: Vec<KeyId>,
}

/// How often rows are looked for that others held, or wrote with another key meanwhile.
const PASSES: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);

impl SealedTable {
    /// In the order in which they are brought under a key.
    pub const ALL: [SealedTable; 5] = [
        SealedTable::Documents,
        SealedTable::Passages,
        SealedTable::Answers,
        SealedTable::Jobs,
        SealedTable::JobSteps,
    ];

    fn kind(self) -> RowKind {
        let kind = |name, columns, batch| RowKind { name, id: "id", part: None, columns, batch };
        match self {
            SealedTable::Documents => kind("documents", (&[DOCUMENT_CONTENT], &[DOCUMENT_IMAGE]), 16),
            // What it has more is not in its row.
            SealedTable::Passages => kind("passages", (&[], &[]), 256),
            SealedTable::Answers => kind("answers", (&[ANSWER_QUESTION, ANSWER, ANSWER_COMMENT], &[]), 256),
            SealedTable::Jobs => kind("jobs", (&[], &[JOB_PAYLOAD, JOB_RESULT]), 4),
            SealedTable::JobSteps => RowKind {
                name: "job_steps",
                id: "job_id",
                part: Some("position"),
                columns: (&[], &[STEP_OUTCOME]),
                batch: 64,
            },
        }
    }
}

impl fmt::Display for SealedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name)
    }
}

/// How a table keeps what is sealed.
#[derive(Clone, Copy)]
struct RowKind {
    name: &'static str,
    id: &'static str,
    /// A second column of the primary key.
    part: Option<&'static str>,
    columns: (&'static [TwinColumn], &'static [BytesColumn]),
    /// Rows of one transaction.
    batch: i64,
}

/// The last row that a pass came to.
type Position = (Uuid, i64);

/// Passages `p` that are not as they would be written now.
const PASSAGES_LEFT: &str = "passages p LEFT JOIN sealed_passages s ON s.passage_id = p.id
    WHERE s.sealed_by IS DISTINCT FROM $1";

impl Store {
    /// How many rows [`Store::rekey`] has to write, table by table. With the owner's role.
    pub async fn rows_to_rekey(&self) -> Result<Vec<(SealedTable, i64)>, StoreError> {
        let mut counts = Vec::new();
        for table in SealedTable::ALL {
            counts.push((table, self.rows_left(table).await?));
        }
        Ok(counts)
    }

    /// Writes the rows of all tenants anew that are not as they would be written now. `progress` gets how many
    /// rows each batch wrote. With the owner's role.
    pub async fn rekey(&self, mut progress: impl FnMut(SealedTable, u64)) -> Result<Rekeyed, StoreError> {
        self.check_owner().await?;
        let mut rekeyed = Rekeyed { rows: Vec::new(), key: self.keyring.writing(), left: 0 };
        for table in SealedTable::ALL {
            let mut written = 0;
            let mut left = 0;
            for _ in 0..PASSES {
                written += self.rekey_pass(table, &mut progress).await?;
                left = self.rows_left(table).await?;
                if left == 0 {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            rekeyed.rows.push((table, written));
            rekeyed.left += left;
        }
        Ok(rekeyed)
    }

    /// Ends the use of the keys but the one that is written with, where no row is sealed with them: a gateway that
    /// still writes with one fails from then on ([`SealError::Retired`]). With the owner's role.
    pub async fn retire_keys(&self) -> Result<RetiredKeys, StoreError> {
        self.check_owner().await?;
        let mut keys = RetiredKeys::default();
        for key in self.other_keys().await? {
            if self.retire(key).await? { &mut keys.retired } else { &mut keys.in_use }.push(key);
        }
        Ok(keys)
    }

    /// Keys that rows may be sealed with beside the one that is written with.
    pub async fn other_keys(&self) -> Result<Vec<KeyId>, StoreError> {
        let rows = self
            .connection()
            .await?
            .query_typed(
                "SELECT id FROM encryption_keys WHERE id IS DISTINCT FROM $1 ORDER BY id",
                &[(&self.keyring.writing(), Type::INT4)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get("id")).collect())
    }

    /// Removes a key that no row refers to; says whether it could.
    async fn retire(&self, key: KeyId) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let transaction = connection.transaction().await?;
        // The database looks through all rows, and would wait for those that others hold.
        transaction
            .query_typed(
                "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '1s', true)",
                &[],
            )
            .await?;
        let removed = transaction
            .execute_typed("DELETE FROM encryption_keys WHERE id = $1", &[(&key, Type::INT4)])
            .await;
        match removed {
            Ok(_) => Ok(transaction.commit().await.map(|()| true)?),
            Err(error)
                if [Some(&SqlState::FOREIGN_KEY_VIOLATION), Some(&SqlState::LOCK_NOT_AVAILABLE)]
                    .contains(&error.code()) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Another role sees no rows, and would find nothing to do.
    async fn check_owner(&self) -> Result<(), StoreError> {
        let owns = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'documents'::regclass";
        let owns = self.connection().await?.query_typed_one(owns, &[]).await?.get(0);
        if owns { Ok(()) } else { Err(SealError::NotOwner.into()) }
    }

    /// Once along all rows; says how many were written.
    async fn rekey_pass(
        &self,
        table: SealedTable,
        progress: &mut impl FnMut(SealedTable, u64),
    ) -> Result<u64, StoreError> {
        let (mut written, mut after) = (0, (Uuid::nil(), i64::MIN));
        loop {
            let mut connection = self.connection().await?;
            let transaction = connection.transaction().await?;
            // What readers of a row get stays the same: triggers on changed texts have nothing to do.
            transaction
                .query_typed(
                    "SELECT set_config('ragway.resealing', 'on', true), set_config('statement_timeout', '0', true)",
                    &[],
                )
                .await?;
            let batch = match table {
                SealedTable::Passages => self.rekey_passages(&transaction, after).await?,
                _ => self.rekey_rows(&transaction, table.kind(), after).await?,
            };
            transaction.commit().await?;
            let Some((last, count)) = batch else { return Ok(written) };
            after = last;
            written += count;
            progress(table, count);
        }
    }

    async fn rows_left(&self, table: SealedTable) -> Result<i64, StoreError> {
        let statement = match table {
            SealedTable::Passages => format!("SELECT count(*) FROM {PASSAGES_LEFT}"),
            _ => {
                let kind = table.kind();
                format!("SELECT count(*) FROM {} WHERE {}", kind.name, kind.left())
            }
        };
        let mut connection = self.connection().await?;
        let transaction = connection.transaction().await?;
        transaction.query_typed("SELECT set_config('statement_timeout', '0', true)", &[]).await?;
        let row = transaction.query_typed_one(&statement, &[(&self.keyring.writing(), Type::INT4)]).await?;
        Ok(row.get(0))
    }

    /// A batch of rows that hold what is sealed themselves; none: there is none behind `after`.
    async fn rekey_rows(
        &self,
        transaction: &Transaction<'_>,
        kind: RowKind,
        after: Position,
    ) -> Result<Option<(Position, u64)>, StoreError> {
        let rows = transaction
            .query_typed(
                &kind.select(),
                &[
                    (&self.keyring.writing(), Type::INT4),
                    (&after.0, Type::UUID),
                    (&after.1, Type::INT8),
                    (&kind.batch, Type::INT8),
                ],
            )
            .await?;
        for row in &rows {
            let (statement, parameters) = self.resealed(kind, row)?;
            transaction.execute_typed(&statement, &parameters.as_slice()).await?;
        }
        let position = |row: &Row| (row.get("id"), row.get("part"));
        Ok(rows.last().map(|last| (position(last), rows.len() as u64)))
    }

    /// The statement that writes a row anew.
    fn resealed(&self, kind: RowKind, row: &Row) -> Result<(String, Parameters), StoreError> {
        let seals = self.seals(TenantId(row.get("tenant_id")));
        let (id, part): (Uuid, i64) = (row.get("id"), row.get("part"));
        let mut parameters = Parameters::default();
        let mut set = vec![format!("sealed_by = {}", parameters.add(seals.writing(), Type::INT4))];
        let (twins, bytes) = kind.columns;
        for &column in twins {
            let text = seals.text(row, id, column)?;
            let text = text
                .as_deref()
                .map(|text| seals.seal_text(id, column, text))
                .transpose()?
                .unwrap_or_default();
            let plain = parameters.add(text.plain.map(str::to_owned), Type::TEXT);
            let sealed = parameters.add(text.sealed, Type::BYTEA);
            set.push(format!("{} = {plain}, {} = {sealed}", column.plain, column.sealed));
        }
        for &column in bytes {
            let value = seals.bytes(row, id, column, part)?;
            let value =
                value.as_deref().map(|value| seals.seal_bytes(id, column, part, value)).transpose()?;
            let value = parameters.add(value.map(std::borrow::Cow::into_owned), Type::BYTEA);
            set.push(format!("{} = {value}", column.column));
        }
        let mut place = format!("{} = {}", kind.id, parameters.add(id, Type::UUID));
        if let Some(column) = kind.part {
            place = format!("{place} AND {column} = {}", parameters.add(part, Type::INT8));
        }
        Ok((format!("UPDATE {} SET {} WHERE {place}", kind.name, set.join(", ")), parameters))
    }

    /// A batch of passages.
    async fn rekey_passages(
        &self,
        transaction: &Transaction<'_>,
        after: Position,
    ) -> Result<Option<(Position, u64)>, StoreError> {
        let writing = self.keyring.writing();
        let locked = transaction
            .query_typed(
                &format!(
                    "SELECT p.id FROM {PASSAGES_LEFT} AND p.id > $2 ORDER BY p.id LIMIT $3
                     FOR NO KEY UPDATE OF p SKIP LOCKED"
                ),
                &[
                    (&writing, Type::INT4),
                    (&after.0, Type::UUID),
                    (&SealedTable::Passages.kind().batch, Type::INT8),
                ],
            )
            .await?;
        let ids: Vec<Uuid> = locked.iter().map(|row| row.get("id")).collect();
        let Some(last) = ids.last() else { return Ok(None) };
        // Looked at again now that nobody can change them: whoever writes to the other table has the passage.
        let rows = transaction
            .query_typed(
                &format!(
                    "SELECT p.id, p.tenant_id, p.heading, p.content, p.embedded_hash, s.sealed_by, s.sealed_heading,
                            s.sealed_content, s.sealed_embedded_hash FROM {PASSAGES_LEFT} AND p.id = ANY($2)"
                ),
                &[(&writing, Type::INT4), (&ids, Type::UUID_ARRAY)],
            )
            .await?;
        let mut of_tenant: BTreeMap<TenantId, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            of_tenant.entry(TenantId(row.get("tenant_id"))).or_default().push(row);
        }
        for (tenant, rows) in of_tenant {
            rewrite_passages(transaction, self.seals(tenant), &rows).await?;
        }
        Ok(Some(((*last, 0), rows.len() as u64)))
    }
}

impl RowKind {
    fn column_names(&self) -> Vec<&'static str> {
        let (twins, bytes) = self.columns;
        let twins = twins.iter().flat_map(|column| [column.plain, column.sealed]);
        twins.chain(bytes.iter().map(|column| column.column)).collect()
    }

    /// Of rows that are not as they would be written now. Without a text a row needs no key.
    fn left(&self) -> String {
        format!("sealed_by IS DISTINCT FROM $1 AND num_nonnulls({}) > 0", self.column_names().join(", "))
    }

    fn select(&self) -> String {
        let Self { name, id, part, .. } = self;
        let columns = self.column_names().join(", ");
        let (part, after, order) = match part {
            Some(part) => ((*part).to_owned(), format!("({id}, {part}) > ($2, $3)"), format!("{id}, {part}")),
            None => ("0::bigint".to_owned(), format!("{id} > $2 AND $3 IS NOT NULL"), (*id).to_owned()),
        };
        format!(
            "SELECT tenant_id, {id} AS id, {part} AS part, sealed_by, {columns} FROM {name}
             WHERE {} AND {after} ORDER BY {order} LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED",
            self.left()
        )
    }
}

/// Writes the texts of locked passages of a tenant where they belong now.
async fn rewrite_passages(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    rows: &[&Row],
) -> Result<(), StoreError> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut headings = Vec::with_capacity(rows.len());
    let mut contents = Vec::with_capacity(rows.len());
    let mut hashes = Vec::with_capacity(rows.len());
    for row in rows {
        let id: Uuid = row.get("id");
        headings.push(seals.text(row, id, PASSAGE_HEADING)?);
        contents.push(seals.needed_text(row, id, PASSAGE_CONTENT)?);
        hashes.push(seals.twin_bytes(row, id, PASSAGE_HASH)?);
        ids.push(id);
    }
    transaction
        .execute_typed("DELETE FROM sealed_passages WHERE passage_id = ANY($1)", &[(&ids, Type::UUID_ARRAY)])
        .await?;
    if seals.writing().is_none() {
        transaction
            .execute_typed(
                "UPDATE passages p SET heading = new.heading, content = new.content, embedded_hash = new.hash
                 FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) AS new (id, heading, content, hash)
                 WHERE p.id = new.id",
                &[
                    (&ids, Type::UUID_ARRAY),
                    (&headings, Type::TEXT_ARRAY),
                    (&contents, Type::TEXT_ARRAY),
                    (&hashes, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
        return Ok(());
    }
    let texts = ids.iter().zip(&headings).zip(&contents).zip(&hashes);
    let texts = texts.map(|(((id, heading), content), hash)| PassageText {
        id: *id,
        heading: heading.as_deref(),
        content,
        embedded_hash: hash.as_deref(),
    });
    insert_passage_texts(transaction, seals, &texts.collect::<Vec<_>>()).await?;
    // Those that are sealed already are left alone: a changed row is put into the indexes again.
    transaction
        .execute_typed(
            "UPDATE passages SET heading = NULL, content = NULL, embedded_hash = NULL
             WHERE id = ANY($1) AND content IS NOT NULL",
            &[(&ids, Type::UUID_ARRAY)],
        )
        .await?;
    Ok(())
}
