"""Runs what `deploy/` describes, without containers, and uses it.

    python check.py target/debug/ragway target/deploy

Three gateways on one PostgreSQL behind PgBouncer, with Redis and Prometheus, behind nginx. Ends with an
error at the first thing that is not so.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import gateway
import upstream
from client import Load, Reply, call, events, good
from stack import Nginx, Postgres, Programs, eventually, free_port, pgbouncer, prometheus, redis, replaced, stop

FARES = "# Fares\n\nA bicycle costs 3 euros each way. Children under six travel free."
TIMES = "# Timetable\n\nThe first ferry leaves Nordby at 06:40. The last one leaves at 22:15."
QUESTIONS = ["What does it cost to take a bicycle?", "When does the first ferry leave?"]

# Instead of 100: this check asks more from its one address.
REQUESTS_A_MINUTE = 1_000_000


class Gate(upstream.Handler):
    """A language model that answers when it is let."""

    opened = threading.Event()

    def do_POST(self) -> None:
        self.opened.wait(60)
        super().do_POST()


class Deployment:
    def __init__(self, binary: Path, place: Path, build: Path, stack: ExitStack) -> None:
        self.binary, self.place, self.stack = binary, place, stack
        self.programs = Programs(place, stack)
        self.model = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
        threading.Thread(target=self.model.serve_forever, daemon=True).start()
        Gate.opened.set()
        self.config = place / "models.toml"
        catalog = gateway.catalog({"remote": f"http://127.0.0.1:{self.model.server_port}/v1"})
        self.config.write_text(replaced(catalog, ("per_address = 100 ", f"per_address = {REQUESTS_A_MINUTE} ")))
        self.postgres = Postgres(self.programs, "postgres", build)
        self.pool = pgbouncer(self.programs, self.postgres)
        self.redis = redis(self.programs)
        self.migrate(self.postgres)
        variables = self.variables(self.postgres, self.pool)
        self.gateways = [self.gateway(f"gateway-{n}", variables) for n in (1, 2, 3)]
        self.urls = [url for _, url in self.gateways]
        self.nginx = Nginx(self.programs, self.urls)
        self.url = self.nginx.url
        self.prometheus = prometheus(self.programs, self.urls)

    def variables(self, postgres: Postgres, pool: int | None) -> dict[str, str]:
        """What deploy/compose.yaml gives a gateway."""
        url, cache = postgres.url("ragway", pool), f"redis://127.0.0.1:{self.redis}/0"
        return gateway.environment(self.place / "home", DATABASE_URL=url, REDIS_URL=cache, TRUSTED_PROXIES="127.0.0.1")

    def migrate(self, postgres: Postgres) -> str:
        urls = {"DATABASE_URL": postgres.url("ragway"), "DATABASE_ADMIN_URL": postgres.url("ragway_owner")}
        variables = gateway.environment(self.place / "home", **urls)
        ran = subprocess.run([self.binary, "migrate"], env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def gateway(self, name: str, variables: dict[str, str]) -> tuple[subprocess.Popen, str]:
        log = self.place / f"{name}.log"
        return self.stack.enter_context(gateway.running(self.binary, self.config, log, variables))


def main(binary: Path, place: Path) -> None:
    build = postgres_build(binary, place)
    with ExitStack() as stack:
        deployment = Deployment(binary, place, build, stack)
        done("three gateways on one PostgreSQL through PgBouncer, Redis, nginx and Prometheus run")
        checks = (
            limits, requests, image, streams, caches, pools, closed, sizes, encrypts, replica_killed, metrics, goes_back, recovers, all_gone,
        )
        for check in checks:
            check(deployment)


def postgres_build(binary: Path, place: Path) -> Path:
    """The PostgreSQL that ragway brings; it is unpacked at the embedded server's first start."""
    home = place / "home"
    subprocess.run([binary, "migrate"], env=gateway.environment(home), check=True, stdout=subprocess.DEVNULL)
    patterns = [(home / "cache", "postgres/*/installation/*/bin/initdb"), (Path("/var/lib/ragway"), "*/build-*/*/bin/initdb")]
    found = [path for folder, pattern in patterns for path in sorted(folder.glob(pattern))]
    assert found, "the PostgreSQL of ragway is not where it was expected"
    return found[0].resolve().parent.parent


def limits(deployment: Deployment) -> None:
    """What comes through nginx is counted, though both are on loopback here; probes and pages are not."""
    for path in ("/health/live", "/health/ready", "/", "/ui/app.js", "/docs/", "/openapi.json", "/version"):
        reply = call(deployment.url, path)
        assert (reply.status, reply.headers.get("ratelimit-limit")) == (200, None), (path, reply.headers)
    reply = call(deployment.url, "/v1/models")
    assert reply.headers["ratelimit-limit"] == str(REQUESTS_A_MINUTE), reply.headers
    done("the gateways count what comes through nginx; probes and pages are exempt")


def requests(deployment: Deployment) -> None:
    stored = good(deployment.url, "/api/v1/documents", {"documents": [{"content": FARES}, {"content": TIMES}]})
    assert [document["status"] for document in stored["documents"]] == ["created", "created"], stored
    again = good(deployment.url, "/api/v1/documents", {"content": FARES})
    assert again["documents"][0]["status"] == "unchanged", again
    for _ in range(12):
        found = good(deployment.url, "/api/v1/search", {"query": QUESTIONS[0], "k": 1})
        assert "3 euros" in found["results"][0]["content"], found
        assert good(deployment.url, "/embed/text-embedding", {"texts": ["ferry"]})["dimension"] == 384
    asked = good(deployment.url, "/api/v1/ask", {"question": QUESTIONS[0]})
    assert asked["answered"] and asked["model"] == "remote", asked
    counts = [len(re.findall(r'embedding_requests_total\{endpoint="/api/v1/search"', metrics_of(url))) for url in deployment.urls]
    assert counts == [1, 1, 1], f"not every gateway was asked: {counts}"
    reply = call(deployment.url, "/version", x_request_id="of-the-client")
    assert reply.headers["x-request-id"] == "of-the-client", reply.headers
    assert call(deployment.url, "/version", x_request_id='"}').headers["x-request-id"] != '"}'
    done("documents, searches, embeddings and answers through nginx; every gateway is asked")


def image(deployment: Deployment) -> None:
    """What `image` made of the Dockerfile, run as its user with its settings and its health check."""
    root = deployment.place / "image"
    if not root.is_dir():
        return
    dockerfile = Path("deploy/docker/Dockerfile").read_text().replace("\\\n", "")
    # Loopback, not every address of this machine.
    port = free_port()
    settings = dict(word.split("=") for word in re.search(r"^ENV (.*)$", dockerfile, re.M)[1].split())
    settings |= {"HOST": "127.0.0.1", "PORT": str(port), "DATABASE_URL": deployment.postgres.url("ragway", deployment.pool)}
    probe = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", dockerfile, re.M)[1])
    probe = [word.replace(":8080/", f":{port}/") for word in probe]
    inside = ["chroot", f"--userspec={re.search(r'^USER (.*)$', dockerfile, re.M)[1]}", root, "env", "-i"]
    inside += [f"PATH={os.environ['PATH']}", *(f"{name}={value}" for name, value in settings.items())]
    health = lambda: subprocess.run([*inside, *probe], capture_output=True).returncode == 0
    refused = subprocess.run([*inside, "HOST=0.0.0.0", "ragway", "serve"], capture_output=True, text=True)
    assert refused.returncode != 0 and "--allow-unauthenticated" in refused.stderr, refused
    assert not health()
    process = deployment.programs.start("image-gateway", [*inside, "ragway", "serve"], port)
    eventually("the image's health check", health, process)
    url = f"http://127.0.0.1:{port}"
    text = {"texts": ["ferry"]}
    ours, theirs = (good(where, "/embed/text-embedding", text) for where in (url, deployment.urls[0]))
    assert ours["embeddings"] == theirs["embeddings"]
    # Loaded by the first request, which may take longer than a request may.
    eventually("the image's multilingual model", lambda: call(url, "/embed/multilingual", text).status == 200, process)
    asked = good(url, "/api/v1/ask", {"question": QUESTIONS[0]})
    assert asked["answered"] and asked["citations"], asked
    stop(process)
    done(f"the image's gateway is healthy by its own check, embeds as the others and answers by {asked['model']}")


def streams(deployment: Deployment) -> None:
    Gate.opened.clear()
    seen = []
    for name, _ in events(deployment.url, "/api/v1/ask", {"question": QUESTIONS[0], "stream": True}):
        # The model answers only after the first event has come: buffered, it would never come.
        Gate.opened.set()
        seen.append(name)
    assert seen[0] == "sources" and seen[-1] == "done" and "delta" in seen, seen
    done(f"server-sent events come one by one through nginx: {' '.join(seen)}")


def caches(deployment: Deployment) -> None:
    text = {"texts": ["How long is the pier of Nordby?"]}
    first = good(deployment.urls[0], "/api/v1/embed/cached", text)
    second = good(deployment.urls[1], "/api/v1/embed/cached", text)
    assert first["cached"] == [] and second["cached"] == [0], (first["cached"], second["cached"])
    assert first["embeddings"] == second["embeddings"]
    done("what one gateway embedded, another finds in Redis")


def pools(deployment: Deployment) -> None:
    server = deployment.postgres
    environment = server.as_user("ragway", "app0secret", PGPORT=str(deployment.pool), PGDATABASE="ragway")
    command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", "SHOW statement_timeout"]
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert shown == "1min", shown
    with Load(deployment.url, [("/api/v1/search", {"query": QUESTIONS[0]})], clients=40) as load:
        eventually("300 searches", lambda: load.done >= 300)
        used = int(server.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = 'ragway'"))
    assert not load.failed, load.failed[:3]
    assert used <= 30, f"{used} connections of PostgreSQL"
    done(f"{load.done} searches of 40 clients at once need {used} connections of PostgreSQL")


def closed(deployment: Deployment) -> None:
    assert call(deployment.url, "/metrics").status == 404
    assert call(deployment.urls[0], "/metrics").status == 200
    done("metrics are not served through nginx")


def sizes(deployment: Deployment) -> None:
    mebibyte = 1 << 20
    reply = call(deployment.url, "/api/v1/documents", b"x" * (32 * mebibyte + 1000))
    is_problem(reply, 413, "body_too_large")
    assert "max_body_bytes" in reply.json()["detail"], reply.body
    reply = call(deployment.url, "/api/v1/documents", b"x" * (34 * mebibyte))
    is_problem(reply, 413, "body_too_large")
    assert "33 MiB" in reply.json()["detail"], reply.body
    done("bodies over 32 MiB are refused by the gateway, over 33 MiB by nginx, in the same shape")


def encrypts(deployment: Deployment) -> None:
    trust = ssl.create_default_context(cafile=deployment.nginx.certificate)
    url = f"https://localhost:{deployment.nginx.tls_port}"
    reply = call(url, "/api/v1/search", {"query": QUESTIONS[0]}, trust)
    assert reply.status == 200 and "max-age" in reply.headers["strict-transport-security"], reply
    assert "strict-transport-security" not in call(deployment.url, "/version").headers
    done("HTTPS by nginx, with HSTS")


def replica_killed(deployment: Deployment) -> None:
    """Nothing that a client may do twice fails when a gateway is killed."""
    document = lambda turn, client: {"content": f"# Note {turn} of {client}\n\nThe ferry number {turn} of {client} sails."}
    work = [
        ("/api/v1/search", {"query": QUESTIONS[1]}),
        ("/embed/text-embedding", {"texts": ["ferry"] * 8}),
        ("/api/v1/documents", document),
        ("/v1/embeddings", {"input": "ferry", "model": "text-embedding"}),
    ]
    with Load(deployment.url, work, clients=8) as load:
        eventually("100 requests", lambda: load.done >= 100)
        before = load.done
        process, _ = deployment.gateways[2]
        process.kill()
        process.wait(30)
        eventually("200 requests after the kill", lambda: load.done >= before + 200)
    assert not load.failed, f"{len(load.failed)} of {load.done}: {load.failed[:3]}"
    asked = good(deployment.url, "/api/v1/ask", {"question": QUESTIONS[0]})
    assert asked["answered"], asked
    retried = (deployment.place / "nginx.log").read_text().count(", 127.0.0.1:")
    done(f"a gateway killed (SIGKILL) under load: 0 of {load.done} requests failed, nginx retried {retried}")


def metrics(deployment: Deployment) -> None:
    """Every metric that a rule or the dashboard names is exported, and every query can be evaluated."""
    text = metrics_of(deployment.urls[0])
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True)
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    recorded = set(re.findall(r"record: (\S+)", Path("deploy/prometheus/recording.yml").read_text()))
    dashboard = json.loads(Path("deploy/grafana/dashboards/ragway.json").read_text())
    queries = {
        f"dashboard, {panel['title']} {target['refId']}": target["expr"].replace("$instance", ".*")
        for panel in dashboard["panels"] for target in panel.get("targets", ())
        if target["datasource"]["type"] == "prometheus"
    }
    rules = prometheus_says(deployment, "/api/v1/rules")["groups"]
    queries |= {f"rule {rule['name']}": rule["query"] for group in rules for rule in group["rules"]}
    for where, query in queries.items():
        for name in names_in(query):
            known = name in recorded | {"up"} or re.sub(r"_(bucket|sum|count)$", "", name) in exported
            assert known, f"{where}: there is no metric {name}"
        prometheus_says(deployment, "/api/v1/query", query)
    unhealthy = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
    assert not unhealthy, unhealthy
    eventually("two gateways up, one down", lambda: up(deployment) == [0, 1, 1])
    nothing = [
        where for where, query in queries.items()
        if where.startswith("dashboard") and not prometheus_says(deployment, "/api/v1/query", query)["result"]
    ]
    done(f"{len(queries)} queries name exported metrics; without a value now: {', '.join(nothing) or 'none'}")


def names_in(query: str) -> set[str]:
    """The metrics that a query of PromQL reads: what is left of it besides strings, labels and functions."""
    left = re.sub(r'"[^"]*"', "", query)
    left = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", "", left)
    return set(re.findall(r"[a-z_][\w:]*\b(?!\s*\()", left)) - {"and", "or", "unless"}


def up(deployment: Deployment) -> list[int]:
    return sorted(int(found["value"][1]) for found in prometheus_says(deployment, "/api/v1/query", "up")["result"])


def goes_back(deployment: Deployment) -> None:
    """Base backup and archived WAL: on another server, the moment before somebody deleted documents."""
    old, url = deployment.postgres, deployment.urls[0]
    base = deployment.programs.folder("base") / "backup"
    old.run("pg_basebackup", "--pgdata", str(base), "--format=tar", "--gzip", "--checkpoint=fast")
    old.run("pg_verifybackup", "--no-parse-wal", str(base))
    os.chmod(base, 0o755)
    for file in base.iterdir():
        file.chmod(0o644)
    good(url, "/api/v1/documents", {"content": "# Piers\n\nThe pier of Nordby is 90 metres long."})
    counted = "SELECT count(*) FROM documents"
    stored, moment = old.ask(counted), old.ask("SELECT clock_timestamp()")
    old.ask("DELETE FROM documents WHERE title NOT LIKE 'Note %'")
    old.ask("SELECT pg_switch_wal()")
    last = old.ask("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")
    eventually("the last WAL in the archive", lambda: (old.wal / last).exists())
    new = Postgres.restored(deployment.programs, old, base, moment)
    kept, back = old.ask(counted), new.ask(counted)
    assert back == stored == str(int(kept) + 3), (stored, kept, back)
    stop(new.process)
    for content in (FARES, TIMES):
        good(url, "/api/v1/documents", {"content": content})
    done(f"base backup and WAL: all {stored} documents are there as before some were deleted")


def recovers(deployment: Deployment) -> None:
    """Backup, the database lost, restored on another server: the same questions get the same passages."""
    answers = lambda url: [
        [(found["id"], found["content"], found["similarity"]) for found in good(url, "/api/v1/search", {"query": question})["results"]]
        for question in QUESTIONS
    ]
    before, old = answers(deployment.urls[0]), deployment.postgres
    backups = deployment.programs.folder("backups")
    made = subprocess.run(
        ["sh", "deploy/backup/backup.sh", backups, deployment.config], env=old.owner(), check=True, text=True, capture_output=True
    ).stdout.strip()
    stored = old.ask("SELECT count(*) FROM passages")
    restore = lambda server, check=True: subprocess.run(
        ["sh", "deploy/backup/restore.sh", made], env=server.owner(), check=check, text=True, capture_output=True
    )
    refused = restore(old, check=False)
    assert refused.returncode != 0 and "restore into an empty one" in refused.stderr, refused

    # The machine of the database is lost.
    old.process.kill()
    old.process.wait(30)
    assert call(deployment.urls[0], "/health/ready").status == 503
    new = Postgres(deployment.programs, "postgres-new", old.build)
    damaged = Path(made, "models.toml")
    text = damaged.read_text()
    damaged.write_text(text + "#")
    refused = restore(new, check=False)
    assert refused.returncode != 0 and "damaged" in refused.stderr, refused
    damaged.write_text(text)
    restore(new)
    assert new.ask("SELECT count(*) FROM passages") == stored
    assert "nothing to do" in deployment.migrate(new)
    _, url = deployment.gateway("gateway-new", deployment.variables(new, None))
    assert answers(url) == before
    assert good(url, "/api/v1/ask", {"question": QUESTIONS[0]})["answered"]
    again = good(url, "/api/v1/documents", {"content": FARES})
    assert again["documents"][0]["status"] == "unchanged", again
    done(f"backup, database lost, restored on a new server: the same answers from {stored} passages")


def all_gone(deployment: Deployment) -> None:
    for process, _ in deployment.gateways[:2]:
        process.kill()
        process.wait(30)
    reply = call(deployment.url, "/api/v1/search", {"query": "ferry"})
    is_problem(reply, 503, "gateway_unavailable")
    assert reply.headers["retry-after"] == "2", reply.headers
    done("without any gateway nginx says 503 with Retry-After")


def is_problem(reply: Reply, status: int, code: str) -> None:
    assert reply.status == status, (reply.status, reply.body[:300])
    assert reply.headers["content-type"] == "application/problem+json", reply.headers
    problem = reply.json()
    assert problem["status"] == status and problem["code"] == code and problem["request_id"], problem


def metrics_of(url: str) -> str:
    return call(url, "/metrics").body.decode()


def prometheus_says(deployment: Deployment, path: str, query: str = "") -> dict:
    reply = call(deployment.prometheus, f"{path}?query={quote(query)}" if query else path).json()
    assert reply["status"] == "success", (query, reply)
    return reply["data"]


def done(what: str) -> None:
    print(f"ok  {what}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
