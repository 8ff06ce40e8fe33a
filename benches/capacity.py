"""What a passage costs in PostgreSQL: bytes of each table and index, time to build, time to search, recall.

    python3 benches/capacity.py --database postgresql://owner:password@host/postgres --rows 100000

Makes a database `capacity_ROWS`, fills it with synthetic passages (unit vectors of 384 dimensions in
clusters, texts of the lengths that ragway cuts), builds indexes with `ragway index rebuild`, measures
with `ragway index recall` and prints a table. Stages can be run apart (`--stages`); `drop` removes the
database. Needs numpy, psql and a built ragway (`--ragway`).
"""

import argparse
import functools
import os
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np

DIMENSION = 384
SPACE = "capacity"
PASSAGES_A_DOCUMENT = 20
PASSAGES_A_CLUSTER = 100
# Directions in which passages of one cluster differ: texts are no noise in all dimensions.
INNER = 32
BATCH = 20_000

STAGES = ["load", "lexical", "hnsw", "sizes", "recall", "halfvec", "binary", "wide", "drop"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True, help="URL of the server as a role that may create databases")
    parser.add_argument("--rows", type=int, default=10_000, help="passages")
    parser.add_argument("--ragway", default="target/release/ragway", help="the program")
    parser.add_argument("--psql", default="psql", help="the program")
    parser.add_argument("--memory-mb", type=int, default=2048, help="memory of an index build")
    parser.add_argument("--workers", type=int, default=1, help="processes beside the first of an index build")
    parser.add_argument("--queries", type=int, default=100, help="searches that are measured")
    parser.add_argument("--prefix", default="", help="put before what is measured, such as `nice -n 19`")
    parser.add_argument("--stages", default="load,lexical,hnsw,sizes,recall,drop", help=", ".join(STAGES))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for stage in arguments.stages.split(","):
        if stage not in STAGES:
            sys.exit(f"unknown stage `{stage}`; known are {', '.join(STAGES)}")
        getattr(bench, stage)()


class Bench:
    def __init__(self, arguments):
        self.rows = arguments.rows
        self.server = arguments.database
        self.name = f"capacity_{arguments.rows}"
        self.url = urlunsplit(urlsplit(self.server)._replace(path=f"/{self.name}"))
        self.arguments = arguments

    def sql(self, statement, url=None, data=None):
        command = [self.arguments.psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url or self.url, "-c", statement]
        return subprocess.run(command, input=data, check=True, capture_output=True).stdout.decode().strip()

    def ragway(self, *arguments):
        command = [*self.arguments.prefix.split(), self.arguments.ragway, *arguments]
        environment = {**os.environ, "DATABASE_URL": self.url, "DATABASE_ADMIN_URL": self.url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def load(self):
        """Makes the database and fills it; the vector index is left for later."""
        self.sql(f"CREATE DATABASE {self.name}", url=self.server)
        self.ragway("migrate")
        self.sql(
            f"INSERT INTO embedding_spaces (id, model, dimension) VALUES ('{SPACE}', '{SPACE}', {DIMENSION});"
            f"INSERT INTO collections (id, tenant_id, name, space_id)"
            f" VALUES ('{Place.collection}', '{Place.tenant}', '{SPACE}', '{SPACE}')"
        )
        self.fill(Place())

    def fill(self, place):
        started = time.monotonic()
        for first in range(0, self.rows, BATCH):
            documents, passages = Batch(first, min(BATCH, self.rows - first), self.rows).copies(place)
            self.sql(
                "COPY documents (id, tenant_id, collection_id, content_hash, format, content) FROM STDIN (FORMAT binary)",
                data=documents,
            )
            self.sql(
                "COPY passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata,"
                " embedding) FROM STDIN (FORMAT binary)",
                data=passages,
            )
        self.sql("VACUUM ANALYZE documents")
        self.sql("VACUUM ANALYZE passages")
        self.told("load", time.monotonic() - started)

    def lexical(self):
        """Writes the terms of all passages, as a server does in the background."""
        started = time.monotonic()
        command = [*self.arguments.prefix.split(), self.arguments.ragway, "serve", "--port", "0"]
        environment = {**os.environ, "DATABASE_URL": self.url, "DATABASE_ADMIN_URL": self.url}
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while self.sql("SELECT count(*) FROM lexical_indexes WHERE fill_from IS NOT NULL") != "0":
                if server.poll() is not None:
                    sys.exit("ragway serve has ended")
                time.sleep(0.5)
            self.told("lexical", time.monotonic() - started)
        finally:
            server.terminate()
            server.wait()
        self.sql("VACUUM ANALYZE passage_terms")

    def build(self, kind, m=16, ef_construction=64):
        started = time.monotonic()
        settings = ["--m", str(m), "--ef-construction", str(ef_construction)]
        resources = ["--memory-mb", str(self.arguments.memory_mb), "--workers", str(self.arguments.workers)]
        print(self.ragway("index", "rebuild", SPACE, "--kind", kind, *settings, *resources).strip())
        self.told(f"build {kind} m={m} ef_construction={ef_construction}", time.monotonic() - started)

    def hnsw(self):
        self.build("hnsw")

    def halfvec(self):
        self.build("halfvec")
        self.sizes()
        self.recall()

    def binary(self):
        self.build("binary")
        self.sizes()
        self.recall()

    def wide(self):
        """The settings that are often recommended for very large collections."""
        self.build("hnsw", m=32, ef_construction=200)
        self.sizes()
        self.recall()

    def recall(self):
        # Once to warm up what the searches read.
        self.ragway("index", "recall", SPACE, "--queries", "20")
        print(self.ragway("index", "recall", SPACE, "--queries", str(self.arguments.queries)).strip())

    def sizes(self):
        """Bytes, whole and a passage."""
        rows = self.sql(
            """SELECT n.nspname = 'pg_toast', c.relkind, c.relname, coalesce(t.relname, c.relname), pg_relation_size(c.oid)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_index x ON x.indexrelid = c.oid
               LEFT JOIN pg_class o ON o.oid = coalesce(x.indrelid, c.oid)
               LEFT JOIN pg_class t ON t.reltoastrelid = o.oid
               WHERE (n.nspname = 'public' OR n.nspname = 'pg_toast') AND c.relkind IN ('r', 'i', 't')
                 AND pg_relation_size(c.oid) > 40 * 8192 ORDER BY 5 DESC"""
        )
        total = 0
        for row in filter(None, rows.split("\n")):
            toast, kind, name, of, size = row.split("|")
            if toast == "t" and of.startswith("pg_"):
                continue  # Of a catalogue.
            what = {"r": "table", "i": "index", "t": "TOAST of"}[kind]
            shown = f"{what} {of if toast == 't' else name}"
            if toast == "t" and kind == "i":
                shown = f"index of the TOAST of {of}"
            total += int(size)
            print(f"{shown:<60} {int(size) / 1e6:>10.1f} MB {int(size) / self.rows:>9.1f} bytes a passage")
        print(f"{'together':<60} {total / 1e6:>10.1f} MB {total / self.rows:>9.1f} bytes a passage")

    def drop(self):
        self.sql(f"DROP DATABASE IF EXISTS {self.name}", url=self.server)

    def told(self, what, seconds):
        print(f"{what}: {seconds:.1f} s, {1000 * seconds / self.rows:.3f} ms a passage", flush=True)


@dataclass
class Place:
    """Where passages are: the tenant is the one that the first migration makes."""

    tenant: uuid.UUID = uuid.UUID(int=0x0000_0000_0000_7000_8000_0000_0000_0001)
    collection: uuid.UUID = uuid.UUID(int=0x0000_0000_0000_7000_8000_0000_0000_00CA)
    space: str = SPACE


class Batch:
    """Passages from the `first` on, with the documents that hold them."""

    def __init__(self, first, count, rows):
        self.first, self.count, self.rows = first, count, rows
        self.random = np.random.default_rng(first + 1)

    def vectors(self):
        centres, directions = space(max(10, self.rows // PASSAGES_A_CLUSTER))
        own = self.random.standard_normal((self.count, INNER)).astype(np.float32) @ directions
        noise = self.random.standard_normal((self.count, DIMENSION)).astype(np.float32)
        cluster = self.random.integers(0, len(centres), self.count)
        vectors = centres[cluster] + own * (0.8 / INNER**0.5) + noise * (0.2 / DIMENSION**0.5)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def texts(self):
        """Of 40 to 200 words: what 200 tokens hold."""
        words, up_to = vocabulary()
        for length in self.random.integers(40, 200, self.count):
            yield b" ".join(words[i] for i in np.searchsorted(up_to, self.random.random(length)))

    def copies(self, place):
        documents, passages = [HEADER], [HEADER]
        vectors = self.vectors().astype(">f4")
        content = []
        for i, text in enumerate(self.texts()):
            number = self.first + i
            document = identifier(1, number // PASSAGES_A_DOCUMENT)
            vector = struct.pack(">hh", DIMENSION, 0) + vectors[i].tobytes()
            metadata = b'\x01{"topic": "%d", "year": %d}' % (number % 100, 2000 + number % 25)
            ordinal = struct.pack(">i", number % PASSAGES_A_DOCUMENT)
            passages.append(row(
                identifier(2, number), place.tenant.bytes, place.collection.bytes, place.space.encode(), document, ordinal, text, metadata,
                vector,
            ))
            content.append(text)
            if len(content) == PASSAGES_A_DOCUMENT or i + 1 == self.count:
                whole = b"\n\n".join(content)
                hashed = document + bytes(16)
                documents.append(row(document, place.tenant.bytes, place.collection.bytes, hashed, b"text/plain", whole))
                content = []
        return b"".join([*documents, END]), b"".join([*passages, END])


@functools.cache
def space(clusters):
    """The clusters' centres, and the directions in which passages differ from them."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((clusters, DIMENSION)).astype(np.float32)
    directions = random.standard_normal((INNER, DIMENSION)).astype(np.float32)
    return tuple(of / np.linalg.norm(of, axis=1, keepdims=True) for of in (centres, directions))


@functools.cache
def vocabulary():
    """Words, and by which number below 1 each is chosen: as often as words are (Zipf)."""
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype="S1")
    of_letter = 1 / np.arange(2, 28)
    lengths = random.integers(2, 11, 50_000)
    words = [b"".join(random.choice(letters, n, p=of_letter / of_letter.sum())) for n in lengths]
    of_word = 1 / np.arange(1, len(words) + 1)
    up_to = np.cumsum(of_word / of_word.sum())
    up_to[-1] = 1
    return words, up_to


# PostgreSQL's binary COPY: signature, flags, extension; rows of fields with their lengths; the end.
HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
END = struct.pack(">h", -1)


def row(*fields):
    return struct.pack(">h", len(fields)) + b"".join(struct.pack(">i", len(field)) + field for field in fields)


def identifier(kind, number):
    """A UUID of version 7: such come in order, as ragway's do."""
    return struct.pack(">QQ", (1_700_000_000_000 + number // 1000) << 16 | 0x7000, 1 << 63 | kind << 56 | number)


if __name__ == "__main__":
    main()
