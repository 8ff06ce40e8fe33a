"""The primary is killed (SIGKILL) under load and its synchronous replica promoted: writes are back within 10 s, none is lost.

The gateways know both servers (`target_session_attrs=read-write`) and come past PgBouncer, which knows one only.
"""

import subprocess
import time

from drill import Load, deployment, expect, kill, prepare, stored_once, wait_for
from stack import Postgres, Programs, give_away, unprivileged

BACK_WITHIN_S = 10


class Replica(Postgres):
    """A streaming copy of a server, which waits for it with every commit."""

    def __init__(self, programs: Programs, primary: Postgres) -> None:
        self.prepare(programs, "replica", primary.build)
        copy = ["pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--pgdata", self.data]
        subprocess.run(copy, env=primary.as_user("postgres", "superuser0secret"), check=True, **unprivileged())
        give_away(self.data)
        self.serve(programs, "replica")
        primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.ask("SELECT pg_reload_conf()")
        state = lambda: primary.ask("SELECT sync_state FROM pg_stat_replication")
        wait_for("the replica is synchronous", lambda: state() == "sync", 60)


def main() -> None:
    with deployment(gateways=0) as served:
        primary = served.postgres
        replica = Replica(served.programs, primary)
        both = f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
        served.database = primary.url("ragway").replace(f"127.0.0.1:{primary.port}", both) + "?target_session_attrs=read-write"
        for _ in range(3):
            served.add()
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        with Load(front.url, clients=12) as load:
            load.seen(120)
            gone = time.monotonic()
            kill(primary.process)
            replica.ask("SELECT pg_promote()")
            promoted = time.monotonic()
            load.seen(300)
        served.postgres = replica
        load.report("the primary killed, its replica promoted")
        stored = [o.at + o.seconds - gone for o in load.outcomes if o.kind == "store" and not o.failed and o.at > gone]
        failed = [o.at + o.seconds - gone for o in load.failures()]
        expect(bool(stored), "nothing was stored after it")
        print(f"promoted after {promoted - gone:.1f} s; the first document stored {min(stored):.1f} s after the kill, the last failure {max(failed, default=0):.1f} s after it")
        stored_once(served, load.acknowledged)
        expect(min(stored) <= BACK_WITHIN_S, f"writes were not back within {BACK_WITHIN_S} s")
        odd = [o for o in load.failures() if o.status not in (0, 503)]
        expect(not odd, f"{len(odd)} failed with something else than 503: {odd[:1]}")


main()
