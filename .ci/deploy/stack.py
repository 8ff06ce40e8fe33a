"""The programs of a deployment, on loopback and free ports, with the configurations of `deploy/`.

Only addresses and paths are replaced in them. Each program is stopped by its process id.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

PASSWORDS = {"RAGWAY_OWNER_PASSWORD": "owner0secret", "RAGWAY_PASSWORD": "app0secret"}
# A busy machine is no fault.
PATIENCE_S = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """`text` with each of these changed; a configuration that lacks one is another than this check knows."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the configuration"
        text = text.replace(old, new)
    return text


def eventually(what: str, holds, process: subprocess.Popen | None = None) -> None:
    for _ in range(PATIENCE_S * 10):
        if holds():
            return
        if process and process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"{what}: it did not come about; the logs are in the folder of the check")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Programs:
    """What runs, stopped in reverse order."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self.place, self.stack = place, stack

    def folder(self, name: str) -> Path:
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def start(self, name: str, command: list, port: int, **more: object) -> subprocess.Popen:
        """Runs `command` until the end and waits until it listens; what it says goes to NAME.log."""
        log = self.place / f"{name}.log"
        log.unlink(missing_ok=True)
        # Appended to: nginx opens it a second time, as /dev/stdout.
        with log.open("a") as output:
            process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output, **more)
        self.stack.callback(stop, process)
        try:
            eventually(name, lambda: listens(port), process)
        except SystemExit:
            sys.stderr.write(log.read_text()[-3000:])
            raise
        return process


def stop(process: subprocess.Popen) -> None:
    # PostgreSQL and PgBouncer wait for their clients at SIGTERM, not at SIGINT.
    process.send_signal(2) if process.poll() is None else None
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


def unprivileged() -> dict:
    """Arguments of Popen: PostgreSQL and PgBouncer refuse to run as root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def give_away(*paths: Path) -> None:
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in paths:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


class Postgres:
    """A server, with the roles and the database of `deploy/postgres/init.sh`.

    It archives its WAL as deploy/backup/README.md says, to `wal` in its folder.
    """

    def __init__(self, programs: Programs, name: str, build: Path) -> None:
        self.prepare(programs, name, build)
        password = self.folder / "password"
        password.write_text("superuser0secret")
        password.chmod(0o644)
        arguments = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        subprocess.run(
            [build / "bin/initdb", "--pgdata", self.data, *arguments], env=self.environment, check=True,
            stdout=subprocess.DEVNULL, **unprivileged(),
        )
        self.serve(programs, name)
        init = ["sh", "deploy/postgres/init.sh"]
        subprocess.run(init, env=self.as_user("postgres", "superuser0secret") | PASSWORDS, check=True)

    def prepare(self, programs: Programs, name: str, build: Path) -> None:
        self.build, self.port, self.folder = build, free_port(), programs.folder(name)
        self.data, self.wal = self.folder / "data", self.folder / "wal"
        self.wal.mkdir()
        give_away(self.folder, self.wal)
        self.environment = {
            "PATH": f"{build / 'bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(build / "lib"), "LC_ALL": "C.UTF-8",
        }

    @classmethod
    def restored(cls, programs: Programs, old: "Postgres", base: Path, until: str) -> "Postgres":
        """Another server, from a base backup of `old` and what it archived since, up to a moment."""
        server = cls.__new__(cls)
        server.prepare(programs, f"{old.folder.name}-restored", old.build)
        server.data.mkdir(mode=0o700)
        give_away(server.data)
        for archive, folder in (("base", server.data), ("pg_wal", server.data / "pg_wal")):
            subprocess.run(["tar", "-xzf", base / f"{archive}.tar.gz", "-C", folder], check=True, **unprivileged())
        with (server.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"restore_command = 'cp {old.wal}/%f %p'\n")
            settings.write(f"recovery_target_time = '{until}'\nrecovery_target_action = promote\n")
        signal = server.data / "recovery.signal"
        signal.touch()
        give_away(signal)
        server.serve(programs, server.folder.name)
        eventually("recovery", lambda: server.ask("SELECT pg_is_in_recovery()") == "f", server.process)
        return server

    def serve(self, programs: Programs, name: str) -> None:
        guide = Path("deploy/backup/README.md").read_text()
        archive = re.search(r"^archive_command = '(.*)'$", guide, re.M)[1].replace("/wal/", f"{self.wal}/")
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "",
            "archive_mode": "on", "archive_timeout": 300, "archive_command": archive,
        }
        command = [self.build / "bin/postgres", "-D", self.data, *(f"-c{key}={value}" for key, value in settings.items())]
        self.process = programs.start(name, command, self.port, env=self.environment, **unprivileged())
        eventually(name, lambda: self.run("pg_isready", "--quiet", check=False).returncode == 0, self.process)

    def as_user(self, user: str, password: str, **more: str) -> dict[str, str]:
        """What tells libpq where to connect and as whom."""
        return self.environment | {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user, "PGPASSWORD": password} | more

    def owner(self) -> dict[str, str]:
        return self.as_user("ragway_owner", PASSWORDS["RAGWAY_OWNER_PASSWORD"])

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, env=self.as_user("postgres", "superuser0secret"), check=check, text=True, capture_output=True
        )

    def ask(self, statement: str) -> str:
        """A superuser's question about the database `ragway`."""
        return self.run("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=ragway", "--command", statement).stdout.strip()

    def url(self, user: str, port: int | None = None) -> str:
        password = PASSWORDS["RAGWAY_OWNER_PASSWORD" if user == "ragway_owner" else "RAGWAY_PASSWORD"]
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/ragway"


def pgbouncer(programs: Programs, postgres: Postgres) -> int:
    folder, port = programs.folder("pgbouncer"), free_port()
    users = folder / "userlist.txt"
    users.write_text(f'"ragway" "{PASSWORDS["RAGWAY_PASSWORD"]}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(replaced(
        Path("deploy/pgbouncer/pgbouncer.ini").read_text(),
        ("host=postgres port=5432", f"host=127.0.0.1 port={postgres.port}"),
        ("listen_addr = 0.0.0.0", "listen_addr = 127.0.0.1\nunix_socket_dir ="),
        ("listen_port = 6432", f"listen_port = {port}"),
        ("/etc/pgbouncer/userlist.txt", str(users)),
    ))
    programs.start("pgbouncer", ["pgbouncer", config], port, **unprivileged())
    return port


def redis(programs: Programs) -> int:
    port = free_port()
    redis_on(programs, port)
    return port


def redis_on(programs: Programs, port: int) -> subprocess.Popen:
    folder = programs.folder("redis")
    command = ["redis-server", "deploy/redis/redis.conf", "--port", port, "--bind", "127.0.0.1", "--dir", folder]
    return programs.start("redis", command, port)


class Nginx:
    """`deploy/nginx` before these gateways, with its TLS server."""

    def __init__(self, programs: Programs, gateways: list[str]) -> None:
        self.folder, self.port, self.tls_port = programs.folder("nginx"), free_port(), free_port()
        shutil.copytree("deploy/nginx", self.folder, dirs_exist_ok=True)
        certificates = self.folder / "certificates"
        certificates.mkdir()
        self.certificate = certificates / "tls.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", certificates / "tls.key", "-out", self.certificate],
            check=True, capture_output=True,
        )
        self.edit("upstream.conf", *((f"gateway-{n}:8080", url.removeprefix("http://")) for n, url in enumerate(gateways, 1)))
        self.edit("nginx.conf", ("listen 8080;", f"listen 127.0.0.1:{self.port};"), ("# include tls.conf;", "include tls.conf;"))
        self.edit("tls.conf", ("listen 8443 ", f"listen 127.0.0.1:{self.tls_port} "))
        self.command = ["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf", "-g", f"pid {self.folder}/nginx.pid;"]
        checked = subprocess.run([*self.command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0 and "[warn]" not in checked.stderr, checked.stderr
        self.command[-1] += " daemon off;"
        self.process = programs.start("nginx", self.command, self.port)
        self.url = f"http://127.0.0.1:{self.port}"

    def edit(self, name: str, *changes: tuple[str, str]) -> None:
        path = self.folder / name
        path.write_text(replaced(path.read_text(), *changes))

    def reload(self) -> None:
        """Goes over to the changed files; old workers end by themselves."""
        old = workers(self.process.pid)
        self.process.send_signal(1)
        eventually("nginx -s reload", lambda: workers(self.process.pid) - old and not listening(old))


def workers(master: int) -> set[int]:
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return set(map(int, children))


def listening(processes: set[int]) -> bool:
    """Whether one of them still takes connections: a worker that ends says so in its title."""
    titles = [Path(f"/proc/{process}/cmdline") for process in processes]
    return any(title.exists() and b"shutting down" not in title.read_bytes() for title in titles)


def prometheus(programs: Programs, gateways: list[str]) -> str:
    folder, port = programs.folder("prometheus"), free_port()
    for name in ("recording.yml", "alerts.yml"):
        shutil.copy(f"deploy/prometheus/{name}", folder)
    targets = ", ".join(f'"{url.removeprefix("http://")}"' for url in gateways)
    text = Path("deploy/prometheus/prometheus.yml").read_text()
    text, count = re.subn(r"targets: \[\"gateway.*\]", f"targets: [{targets}]", text)
    assert count == 1, "prometheus.yml has no targets"
    # So that a rate can be had within seconds.
    text = replaced(text, ("scrape_interval: 15s", "scrape_interval: 1s"), ("evaluation_interval: 15s", "evaluation_interval: 1s"))
    (folder / "prometheus.yml").write_text(text)
    programs.start(
        "prometheus",
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        port,
    )
    return f"http://127.0.0.1:{port}"
