"""What one gateway carries on this machine: requests a second, latencies, and who uses the cores.

    cargo build --release --bins --examples
    python3 benches/load/run.py --prepare      # once: 100,000 synthetic passages, their words, their index
    python3 benches/load/run.py                # measures, a few minutes; --only NAME,NAME for some of it

Starts a ragway with the PostgreSQL that it brings, a mock language model, and `wrk`. Prints a table and whether the goals
are met. The client, the gateway and the database share the machine's cores. Needs wrk, psql, pgbench; --prepare also
numpy. Ends with 1 where a request fails.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate, count
from pathlib import Path
from typing import Callable, Iterator
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".ci"), str(ROOT / ".ci/deploy")]
os.environ["NO_PROXY"] = "127.0.0.1"

import gateway  # noqa: E402
from client import call, good  # noqa: E402
from stack import Programs, eventually, free_port  # noqa: E402

DEFAULT_COLLECTION = "SELECT c.id, c.space_id FROM collections c JOIN tenants t ON t.id = c.tenant_id WHERE (c.name, t.name) = ('default', 'default')"
PLACES = [f"{side} {name}" for side in ("North", "South", "East", "West", "Upper") for name in "Nordby Esbjerg Fanoe Ribe Varde Tonder Skagen Lemvig Struer Hjerting".split()]
WARM_S = 3
# Of what is compared with each other, by turns; the middle one of each is shown.
ROUNDS = 5
# Searches in a minute are asked as words are used: a few often, most of them seldom.
ZIPF_QUERIES, ZIPF_EXPONENT = 1000, 1.0
VECTORS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ragway", type=Path, default=ROOT / "target/release/ragway", help="the program")
    parser.add_argument("--bare", type=Path, default=ROOT / "target/release/examples/bare", help="the example of that name")
    parser.add_argument("--place", type=Path, default=ROOT / "target/load", help="folder of the prepared data and the logs")
    parser.add_argument("--rows", type=int, default=100_000, help="passages that --prepare makes")
    parser.add_argument("--seconds", type=int, default=10, help="for each measurement")
    parser.add_argument("--only", default="", help=", ".join(MEASUREMENTS))
    parser.add_argument("--prepare", action="store_true", help="make the passages, and measure nothing")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.prepare:
        shutil.rmtree(options.place, ignore_errors=True)
    options.place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        bench = Bench(options, stack)
        if options.prepare:
            bench.prepare()
            return
        bench.words = (options.place / "words").read_text().split()
        bench.neighbours()
        names = options.only.split(",") if options.only else list(MEASUREMENTS)
        for name in names:
            bench.measure(name)
        bench.judge()


class Bench:
    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.options, self.stack = options, stack
        self.place: Path = options.place
        self.rows: dict[str, dict] = {}
        self.pgbench_arguments: list[str] = []
        self.words: list[str] = []
        self.bare_url = ""
        self.nonce = random.randrange(1 << 40)
        self.numbers = count()
        self.programs = Programs(self.place, stack)
        model_port = free_port()
        config = self.place / "models.toml"
        config.write_text(gateway.catalog({"mock": f"http://127.0.0.1:{model_port}/v1"}))
        home = self.place / "home"
        home.mkdir(exist_ok=True)
        if not (home / "cache").exists() and (cache := os.environ.get("RAGWAY_TEST_CACHE")):
            (home / "cache").symlink_to(Path(cache).resolve())
        log = self.place / "gateway.log"
        self.environment = gateway.environment(home)
        running = gateway.running(options.ragway.resolve(), config, log, self.environment)
        self.process, self.url = stack.enter_context(running)
        self.database = self.admin(home / "data/postgres")
        eventually("ready", lambda: call(self.url, "/health/ready").status == 200, self.process)
        self.bare_url = f"http://127.0.0.1:{model_port}"

    def admin(self, folder: Path) -> str:
        """URL of the gateway's own PostgreSQL, as its superuser."""
        password = folder / "ragway_admin.password"
        if not password.exists():
            sys.exit(f"{password} is not there: give --place a folder that user `nobody` may enter")
        port = (folder / "port").read_text()
        return f"postgresql://ragway_admin:{password.read_text()}@127.0.0.1:{port}/ragway"

    def neighbours(self) -> None:
        """Starts what is measured beside it, and the language model."""
        # As many bytes as an answer to what is asked of the cache.
        size = len(call(self.url, "/api/v1/embed/cached", {"texts": [self.query(0)]}).body)
        port = urlsplit(self.bare_url).port
        self.programs.start("bare", [self.options.bare, port, size], port)

    def sql(self, statement: str) -> str:
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.database, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    # Preparing.

    def prepare(self) -> None:
        sys.path.append(str(ROOT / "benches"))
        import capacity

        collection, space = self.sql(DEFAULT_COLLECTION).split("|")
        index = self.sql("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'passages_hnsw_%'")
        # Built at once it takes a fraction of the time.
        self.sql(f'DROP INDEX IF EXISTS "{index}"')
        arguments = argparse.Namespace(database=self.database, rows=self.options.rows, psql="psql")
        filling = capacity.Bench(arguments)
        filling.url = self.database
        filling.fill(capacity.Place(collection=uuid.UUID(collection), space=space))
        command = [self.options.ragway, "index", "rebuild", "default", "--kind", "shared", "--memory-mb", "1024"]
        subprocess.run(command, check=True, env=self.environment)
        for place in PLACES:
            content = f"# Fares to {place}\n\nA bicycle to {place} costs 3 euros each way."
            good(self.url, "/api/v1/documents", {"content": content, "external_id": place})
        filled = lambda: self.sql("SELECT count(*) FROM lexical_indexes WHERE fill_from IS NOT NULL") == "0"
        while not filled():
            time.sleep(1)
        (self.place / "words").write_text("\n".join(word.decode() for word in capacity.vocabulary()[0]))
        for table in ("documents", "passages", "passage_terms"):
            self.sql(f"VACUUM ANALYZE {table}")

    # Measuring.

    def measure(self, name: str) -> None:
        by_turns = MEASUREMENTS[name]
        rounds = [[one(self) for one in by_turns] for _ in range(ROUNDS if len(by_turns) > 1 else 1)]
        for one, rows in zip(by_turns, zip(*rounds)):
            self.show(one.__name__, sorted(rows, key=lambda row: row["rate"])[len(rows) // 2])

    def show(self, name: str, row: dict) -> None:
        self.rows[name] = row
        shown = " | ".join(f"{row[column]:{shape}}" for column, shape in COLUMNS.items())
        if len(self.rows) == 1:
            print(f"| | clients | {' | '.join(TITLES[column] for column in COLUMNS)} |")
            print(f"|---|--:|{'--:|' * len(COLUMNS)}", flush=True)
        print(f"| {row['what']} | {row['clients']} | {shown} |", flush=True)

    def wrk(self, what: str, path: str, bodies: list[dict], clients: int = 16, url: str = "") -> dict:
        file = self.place / "bodies"
        file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
        url = (url or self.url) + path
        command = ["wrk", "-t1", f"-c{clients}", "-s", str(ROOT / "benches/load/requests.lua"), "--timeout", "30s"]
        run = lambda seconds: subprocess.run(
            [*command, f"-d{seconds}s", url, "--", file], check=True, capture_output=True, text=True
        ).stdout
        run(WARM_S)
        # Other requests than those that warmed up, where each is to be a new one.
        file.write_text("".join(json.dumps(body) + "\n" for body in reversed(bodies)))
        with Cores(self.process.pid) as cores:
            found = json.loads(run(self.options.seconds).splitlines()[-1])
        if found["refused"] or found["broken"]:
            sys.exit(f"FAULT: {what}: {found}")
        return found | {"what": what, "clients": clients, "rate": found["requests"] / found["seconds"]} | cores.used()

    def pgbench(self) -> dict:
        """The transaction of a search by its vector, as the gateway sends it, without what the gateway asks besides."""
        clients = 16
        folder = self.programs.folder("pgbench-logs")
        self.pgbench_arguments = self.pgbench_arguments or self.pgbench_scripts()
        command = ["pgbench", "-n", "-Mextended", f"-c{clients}", "-j1", *self.pgbench_arguments]

        def run(seconds: int, *more: str) -> str:
            ran = subprocess.run([*command, f"-T{seconds}", *more, self.as_application()], capture_output=True, text=True)
            if ran.returncode != 0:
                sys.exit(f"FAULT: pgbench: {ran.stderr[-1000:]}")
            return ran.stdout

        run(WARM_S)
        with Cores(self.process.pid) as cores:
            told = run(self.options.seconds, "--log", f"--log-prefix={folder}/log")
        if not re.search(r"failed transactions: 0 ", told):
            sys.exit(f"FAULT: pgbench: {told}")
        taken = sorted(int(line.split()[2]) / 1e3 for log in folder.glob("log.*") for line in log.read_text().splitlines())
        at = lambda share: taken[int(len(taken) * share)]
        rate = float(re.search(r"tps = ([\d.]+)", told)[1])
        row = {"what": "pgbench: the transaction of that search", "clients": clients, "rate": rate}
        return row | {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99)} | cores.used()

    def pgbench_scripts(self) -> list[str]:
        """Arguments that name a script for each transaction, and what its variables hold."""
        scripts, variables = [], []
        folder = self.programs.folder("pgbench")
        for number, statements in enumerate(self.transactions()):
            script = folder / f"{number}.sql"
            text = "\n".join(statement + ";" for statement in statements)
            # Vectors are parameters, as they are the gateway's; so is what holds a colon, which means one to pgbench.
            for at, value in enumerate(sorted(set(re.findall(r"'\[[^]']*\]'|'[^']*:[^']*'", text)))):
                name = f"v{number}_{at}"
                variables.append(f"-D{name}={value[1:-1]}")
                text = text.replace(value, f"CAST(:{name} AS {'vector' if value.startswith(chr(39) + '[') else 'text'})")
            script.write_text(text)
            scripts.append(f"-f{script}")
        return scripts + variables

    def as_application(self) -> str:
        """URL of the role that the gateway itself has, whose rows are bound by policies."""
        folder = self.place / "home/data/postgres"
        (name,) = [path.stem for path in folder.glob("*.password") if path.stem not in ("ragway_admin", "initdb")]
        return self.database.replace(f"ragway_admin:{(folder / 'ragway_admin.password').read_text()}", f"{name}:{(folder / f'{name}.password').read_text()}")

    def transactions(self) -> Iterator[list[str]]:
        """What the gateway sends for searches by vector: BEGIN, settings, the query, COMMIT."""
        server_log = self.place / "home/data/postgres/server.log"
        self.sql("ALTER SYSTEM SET log_statement = 'all'; ")
        self.sql("SELECT pg_reload_conf()")
        time.sleep(1)
        try:
            for body in map(self.dense, range(VECTORS)):
                before = server_log.stat().st_size
                good(self.url, "/api/v1/search", body | {"threshold": -0.5 - random.random() / 10})
                time.sleep(0.05)
                with server_log.open() as log:
                    log.seek(before)
                    yield transaction(log.read())
        finally:
            self.sql("ALTER SYSTEM RESET log_statement")
            self.sql("SELECT pg_reload_conf()")

    def query(self, number: int) -> str:
        """Words of the synthetic passages, another text for each number; rare ones as well."""
        chance = random.Random(f"query {number}")
        return " ".join(self.words[int(len(self.words) ** chance.random())] for _ in range(chance.randrange(3, 7)))

    def dense(self, number: int) -> dict:
        return {"query": self.query(number), "mode": "dense", "threshold": -1.0}

    def judge(self) -> None:
        rate = lambda name: self.rows[name]["rate"]
        share = lambda name, of: rate(name) / rate(of)
        print()
        if "repeated" in self.rows:
            late = self.rows["repeated"]["p95"]
            goal(rate("repeated") >= 1000 and late < 50, f"repeated searches: {rate('repeated'):.0f}/s, P95 {late:.1f} ms (1,000/s under 50 ms)")
        if {"cached", "bare"} <= self.rows.keys():
            enough = rate("cached") >= 10_000 or share("cached", "bare") >= 0.5
            goal(enough, f"cached embeddings: {rate('cached'):.0f}/s, {share('cached', 'bare'):.2f} of the bare route (10,000/s or 0.5)")
        if {"dense", "pgbench"} <= self.rows.keys():
            goal(share("dense", "pgbench") >= 0.9, f"searches with cached vectors: {share('dense', 'pgbench'):.2f} of pgbench (0.9)")


COLUMNS = {"rate": ",.0f", "p50": ".1f", "p95": ".1f", "p99": ".1f", "gateway": ".2f", "database": ".2f", "others": ".2f"}
TITLES = {
    "rate": "requests/s", "p50": "P50 ms", "p95": "P95 ms", "p99": "P99 ms",
    "gateway": "cores: gateway", "database": "PostgreSQL", "others": "clients and all else",
}


def goal(met: bool, told: str) -> None:
    print(f"{'met' if met else 'MISSED'}: {told}")


def zipf(count: int, length: int) -> Iterator[int]:
    chance = random.Random(1)
    weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, count + 1)))
    yield from chance.choices(range(count), cum_weights=weights, k=length)


def repeated(bench: Bench) -> dict:
    search = lambda number: {"query": bench.query(number), "threshold": -1.0}
    # Each was asked before: the seldom ones would take longer to come than the measurement lasts.
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda number: good(bench.url, "/api/v1/search", search(number)), range(ZIPF_QUERIES)))
    bodies = [search(number) for number in zipf(ZIPF_QUERIES, 20_000)]
    return bench.wrk(f"search, {ZIPF_QUERIES:,} queries repeated (Zipf)", "/api/v1/search", bodies)


def dense(bench: Bench) -> dict:
    """Each with a threshold that no other has had, so that only its vector is known."""
    bodies = [bench.dense(n % VECTORS) | {"threshold": -1.0 + next(bench.numbers) / 1e7} for n in range(20_000)]
    return bench.wrk("search by vector, vectors cached, results not", "/api/v1/search", bodies)


def hybrid(bench: Bench) -> dict:
    bodies = [{"query": bench.query(n + bench.nonce), "threshold": -1.0} for n in range(20_000)]
    return bench.wrk("search, hybrid, each query a new one", "/api/v1/search", bodies)


def cached(bench: Bench) -> dict:
    bodies = [{"texts": [bench.query(number)]} for number in range(500)]
    return bench.wrk("embed, cached, one text", "/api/v1/embed/cached", bodies)


def bare(bench: Bench) -> dict:
    bodies = [{"texts": [bench.query(number)]} for number in range(500)]
    return bench.wrk("a bare actix route, as many bytes", "/bare", bodies, url=bench.bare_url)


def uncached(bench: Bench) -> dict:
    bodies = [{"texts": [f"{bench.query(n)} {bench.nonce + n}"]} for n in range(40_000)]
    return bench.wrk("embed, one new text", "/embed/text-embedding", bodies)


def ask(bench: Bench) -> dict:
    bodies = [{"question": f"What does it cost to take a bicycle to {PLACES[n]}?"} for n in zipf(len(PLACES), 5_000)]
    answer = good(bench.url, "/api/v1/ask", bodies[0])
    assert answer["model"] == "mock", answer
    return bench.wrk(f"ask, {len(PLACES)} questions repeated (Zipf), mock LLM", "/api/v1/ask", bodies)


# What stands together is measured by turns.
MEASUREMENTS: dict[str, list[Callable[[Bench], dict]]] = {
    "bare": [bare], "cached": [cached], "uncached": [uncached], "repeated": [repeated],
    "dense": [dense, Bench.pgbench], "hybrid": [hybrid], "ask": [ask],
}


def transaction(log: str) -> list[str]:
    """The statements of the process that compared vectors, with their parameters in place."""
    entries = re.split(r"^(?=\d{4}-\d\d-\d\d )", log, flags=re.M)
    statements: dict[str, list[str]] = {}
    for entry in entries:
        head = re.match(r"[^\[]*\[(\d+)\] (LOG|DETAIL):  (?:execute [^:]*: |statement: |parameters: )?", entry, re.I)
        if not head:
            continue
        own, text = statements.setdefault(head[1], []), entry[head.end():].strip()
        if head[2] == "LOG":
            own.append(text)
        elif own:
            values = dict(re.findall(r"\$(\d+) = ('(?:[^']|'')*'|NULL)", text))
            own[-1] = re.sub(r"\$(\d+)", lambda place: values.get(place[1], place[0]), own[-1])
    (own,) = [own for own in statements.values() if any("<=>" in statement for statement in own)]
    compared = next(at for at, statement in enumerate(own) if "<=>" in statement)
    begun = max(at for at in range(compared) if own[at].startswith(("BEGIN", "START")))
    settings = [statement for statement in own[begun:compared] if statement.startswith("SELECT set_config")]
    return ["BEGIN", *settings, own[compared], "COMMIT"]


class Cores:
    """How many cores the gateway, its PostgreSQL and everything else kept busy."""

    def __init__(self, gateway: int) -> None:
        self.gateway = gateway

    def __enter__(self) -> "Cores":
        self.before, self.started = self.ticks(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.after, self.seconds = self.ticks(), time.monotonic() - self.started

    def used(self) -> dict[str, float]:
        a_core = self.seconds * os.sysconf("SC_CLK_TCK")
        gateway, database, busy = ((after - before) / a_core for before, after in zip(self.before, self.after))
        return {"gateway": gateway, "database": database, "others": busy - gateway - database}

    def ticks(self) -> tuple[int, int, int]:
        processes = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, fields = re.match(r"\d+ \((.*)\) (.*)", stat.read_text(), re.S).groups()
            except (OSError, AttributeError):
                continue
            fields = fields.split()
            # Of itself, and of children that have ended.
            processes[int(stat.parent.name)] = (name, int(fields[1]), sum(map(int, fields[11:13])), sum(map(int, fields[13:15])))
        database = 0
        for process, (name, parent, own, ended) in processes.items():
            if name == "postgres" and self.descends(process, processes):
                database += own + (ended if processes[parent][0] != "postgres" else 0)
        total = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        # Idle and waiting for disks are no work.
        return processes[self.gateway][2], database, sum(total) - total[3] - total[4]

    def descends(self, process: int, processes: dict) -> bool:
        while process in processes and process != self.gateway:
            process = processes[process][1]
        return process == self.gateway


if __name__ == "__main__":
    main()
