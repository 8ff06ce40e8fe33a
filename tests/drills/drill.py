"""What the drills share: a deployment on loopback from `.ci/deploy/stack.py`, and clients that keep count.

A drill is one command, run from anywhere: `python3 tests/drills/NAME.py [PROGRAM]`; PROGRAM is
`target/debug/ragway` where it is not given. Models come from `RAGWAY_TEST_CACHE`, or are downloaded to
`target/test-cache`. Needs nginx, pgbouncer, redis-server, openssl. Ends with 1 where the drill shows a fault.
"""

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".ci"), str(ROOT / ".ci/deploy")]
os.environ["NO_PROXY"] = "127.0.0.1"

import gateway  # noqa: E402
from client import call, connection, good  # noqa: E402
from stack import Nginx, Postgres, Programs, eventually, free_port, pgbouncer, redis_on  # noqa: E402

# Between two requests of a client: the load leaves the machine to the gateways.
PAUSE_S = 0.02
# Settings of models.toml that a drill changes.
Edit = tuple[str, str]
# What comes through nginx comes from one address.
UNLIMITED = ("per_address = 100 ", "per_address = 1_000_000 ")


class Deployment:
    """Gateways on PostgreSQL behind PgBouncer, with Redis, which answer by quoting; nobody else's programs."""

    def __init__(
        self, stack: ExitStack, gateways: int = 3, settings: tuple[Edit, ...] = (), binary: Path | None = None,
        server: type[Postgres] = Postgres, models: Callable[[Path], str] = lambda _: "",
        catalog: Path = ROOT / "models.toml", backends: dict[str, str] | None = None,
    ) -> None:
        """`backends` answer questions: base URLs by name. `models` writes some into a folder and returns their entries of models.toml."""
        self.binary = binary or Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/ragway").resolve()
        os.chdir(ROOT)
        self.place = own_place(Path(sys.argv[0]).stem)
        self.programs = Programs(self.place, stack)
        self.config = self.place / "models.toml"
        self.config.write_text(edited(gateway.catalog(backends or {}, file=catalog), (UNLIMITED, *settings)) + models(self.place / "models"))
        self.postgres = server(self.programs, "postgres", postgres_build(self.binary, self.place / "home"))
        self.database = self.postgres.url("ragway", pgbouncer(self.programs, self.postgres))
        self.redis_port = free_port()
        self.redis = redis_on(self.programs, self.redis_port)
        self.migrate()
        self.ports: list[int] = []
        self.urls: list[str] = []
        self.gateways: list[subprocess.Popen] = []
        for _ in range(gateways):
            self.add()

    def add(self) -> None:
        """One more gateway."""
        self.ports.append(free_port())
        self.urls.append(f"http://127.0.0.1:{self.ports[-1]}")
        self.gateways.append(self.start(len(self.gateways)))

    def migrate(self) -> None:
        urls = {"DATABASE_URL": self.postgres.url("ragway"), "DATABASE_ADMIN_URL": self.postgres.url("ragway_owner")}
        variables = gateway.environment(self.place / "home", **urls)
        subprocess.run([self.binary, "--config", self.config, "migrate"], env=variables, check=True, stdout=subprocess.DEVNULL)

    def start(self, number: int) -> subprocess.Popen:
        """Starts this gateway on its port, again if it was there before, and waits until it is ready."""
        variables = gateway.environment(
            self.place / "home", DATABASE_URL=self.database,
            REDIS_URL=f"redis://127.0.0.1:{self.redis_port}/0", TRUSTED_PROXIES="127.0.0.1",
        )
        command = [self.binary, "--config", self.config, "serve", "--host", "127.0.0.1", "--port", self.ports[number]]
        process = self.programs.start(f"gateway-{number + 1}", command, self.ports[number], env=variables)
        eventually("ready", lambda: ready(self.urls[number]), process)
        return process

    def nginx(self, retries: bool = True) -> Nginx:
        """`deploy/nginx`; without retries if asked."""
        front = Nginx(self.programs, self.urls)
        if not retries:
            site = front.folder / "site.conf"
            lines = site.read_text().splitlines()
            site.write_text("\n".join("proxy_next_upstream off;" if "proxy_next_upstream " in line else line for line in lines))
            front.reload()
        return front

    def external_ids(self) -> Counter:
        """How often each external id is stored."""
        return Counter(self.postgres.ask("SELECT external_id FROM documents WHERE external_id IS NOT NULL").split())


@contextmanager
def deployment(**more) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(stack, **more)


def ready(url: str) -> bool:
    try:
        return call(url, "/health/ready").status == 200
    except (OSError, http.client.HTTPException):
        return False


def edited(text: str, settings: tuple[Edit, ...]) -> str:
    for old, new in settings:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in models.toml"
        text = text.replace(old, new)
    return text


def own_place(name: str) -> Path:
    """An empty folder with a home that has the downloads of all tests."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    place, cache = target / "drills" / name, Path(os.environ.get("RAGWAY_TEST_CACHE", target / "test-cache"))
    shutil.rmtree(place, ignore_errors=True)
    (place / "home").mkdir(parents=True)
    cache.mkdir(parents=True, exist_ok=True)
    (place / "home/cache").symlink_to(cache.resolve())
    return place


def postgres_build(binary: Path, home: Path) -> Path:
    """The PostgreSQL that ragway brings, unpacked by it at the first start."""
    places = [(home / "cache", "postgres/*/installation/*/bin/initdb"), (Path("/var/lib/ragway"), "*/build-*/*/bin/initdb")]
    for _ in range(2):
        for folder, pattern in places:
            for found in sorted(folder.glob(pattern)):
                return found.resolve().parent.parent
        subprocess.run([binary, "migrate"], env=gateway.environment(home), check=True, stdout=subprocess.DEVNULL)
    raise SystemExit("the PostgreSQL of ragway is not where it was expected")


@dataclass
class Outcome:
    """Of one request. `status` is 0 where no answer came; `begun`: a stream whose first byte came, and no end."""

    kind: str
    at: float
    seconds: float
    status: int
    detail: str = ""
    retry_after: str | None = None
    begun: bool = False

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 300 or self.begun


class Load:
    """Clients that embed, search, store and ask in turn, each on a connection of its own; every outcome is kept.

    `acknowledged` are the external ids of documents whose storing was answered with success.
    """

    KINDS = ("embed", "search", "store", "ask", "stream")

    def __init__(self, url: str, clients: int = 6, kinds: tuple[str, ...] = KINDS) -> None:
        self.url, self.kinds = url, kinds
        self.outcomes: list[Outcome] = []
        self.acknowledged: set[str] = set()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def work(self, number: int) -> None:
        turn = number
        while not self.ending.is_set():
            turn += 1
            kind = self.kinds[turn % len(self.kinds)]
            name = f"{number}-{turn}-{random.randrange(1 << 40)}"
            outcome = self.one(kind, name)
            if kind == "store" and not outcome.failed:
                self.acknowledged.add(name)
            self.outcomes.append(outcome)
            time.sleep(PAUSE_S)

    def one(self, kind: str, name: str) -> Outcome:
        path, body = request(kind, name)
        started, begun = time.monotonic(), False
        server = connection(self.url)
        try:
            server.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = server.getresponse()
            begun = kind == "stream" and response.status == 200
            text = response.read()
            # A stream that broke off has no last event.
            whole = not begun or b"event: done" in text
            return Outcome(
                kind, started, time.monotonic() - started, response.status, text[-200:].decode(errors="replace"),
                response.getheader("retry-after"), not whole,
            )
        except (OSError, http.client.HTTPException) as error:
            return Outcome(kind, started, time.monotonic() - started, 0, repr(error), None, begun)
        finally:
            server.close()

    def seen(self, more: int, limit_s: float = 120) -> None:
        """Waits for so many more outcomes."""
        goal, end = len(self.outcomes) + more, time.monotonic() + limit_s
        while len(self.outcomes) < goal and time.monotonic() < end:
            time.sleep(0.05)
        assert len(self.outcomes) >= goal, f"only {len(self.outcomes)} of {goal} requests in {limit_s} s"

    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failed]

    def report(self, what: str) -> None:
        sent, failed = (Counter(o.kind for o in some) for some in (self.outcomes, self.failures()))
        broken = sum(o.begun for o in self.outcomes)
        kinds = ", ".join(f"{kind} {failed[kind]} of {sent[kind]}" for kind in self.kinds)
        print(f"{what}: failed {sum(failed.values())} of {len(self.outcomes)} ({kinds}); streams broken off: {broken}", flush=True)
        for (kind, status), count in sorted(Counter((o.kind, o.status) for o in self.failures()).items()):
            example = next(o.detail for o in self.failures() if (o.kind, o.status) == (kind, status))
            print(f"    {count} x {kind}: {status} {example}", flush=True)


def request(kind: str, name: str) -> tuple[str, dict]:
    question = "What does it cost to take a bicycle?"
    return {
        "embed": ("/embed/text-embedding", {"texts": [f"ferry {name}"]}),
        "cached": ("/api/v1/embed/cached", {"texts": ["ferry", f"pier {name}"]}),
        "search": ("/api/v1/search", {"query": question}),
        "store": ("/api/v1/documents", {"content": f"Ferry {name} sails at noon.", "external_id": name}),
        "ask": ("/api/v1/ask", {"question": question}),
        "stream": ("/api/v1/ask", {"question": question, "stream": True}),
    }[kind]


def prepare(url: str) -> None:
    """Something to find; and every model is loaded afterwards."""
    good(url, "/api/v1/documents", {"content": "# Fares\n\nA bicycle costs 3 euros each way.", "external_id": "fares"})
    for kind in Load.KINDS:
        path, body = request(kind, "first")
        eventually(path, lambda: call(url, path, body).status == 200)


def stored_once(deployment: Deployment, acknowledged: set[str]) -> None:
    """No acknowledged document is missing, and none is there twice."""
    stored = deployment.external_ids()
    lost = [name for name in acknowledged if name not in stored]
    twice = [name for name, count in stored.items() if count > 1]
    print(f"documents acknowledged: {len(acknowledged)}, of those missing: {len(lost)}; stored twice: {len(twice)}")
    expect(not lost and not twice, "documents are missing or twice there")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def expect(holds: bool, fault: str) -> None:
    if not holds:
        raise SystemExit(f"FAULT: {fault}")


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def terminate(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def wait_for(what: str, holds: Callable[[], bool], limit_s: float) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not holds():
        expect(time.monotonic() - started < limit_s, f"{what}: not within {limit_s} s")
        time.sleep(0.05)
    return time.monotonic() - started


# A drill that is told to stop (a limit of time) stops what it started as well.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
