"""The disk of PostgreSQL's data folder is full: what is stored is found, writes are refused and say why, none is lost.

The data folder is a file system of 256 MB, which takes root. A file leaves 1 MB of it free, and is deleted at the end.
Once tables need room first; and once PostgreSQL's log needs a new file, without which PostgreSQL ends.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from drill import Load, deployment, expect, prepare, stored_once, wait_for
from stack import Postgres, Programs, give_away

SIZE_MB, LEFT_MB = 256, 1
# That are waited for. Where PostgreSQL has ended, each takes a while.
REFUSALS, REFUSALS_WITHOUT_SERVER = 20, 8


class Small(Postgres):
    """A server whose data folder is a file system of its own."""

    def prepare(self, programs: Programs, name: str, build: Path) -> None:
        subprocess.run(["umount", programs.place / name / "data"], capture_output=True)
        super().prepare(programs, name, build)
        self.data.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", self.data], check=True)
        programs.stack.callback(subprocess.run, ["umount", "--lazy", self.data])
        give_away(self.data)

    def needs_a_new_file(self) -> None:
        """Ends the file that the log is written to."""
        self.run("psql", "--no-psqlrc", "--dbname=ragway", "--command", "SELECT pg_switch_wal()", check=False)

    def free(self) -> int:
        found = os.statvfs(self.data)
        return found.f_bavail * found.f_frsize


def main() -> None:
    if os.getuid() != 0:
        sys.exit("only root can make a file system for the data folder")
    for log_first in (False, True):
        fill_up(log_first)


def fill_up(log_first: bool) -> None:
    with deployment(gateways=1, server=Small) as served:
        prepare(served.urls[0])
        ballast = served.postgres.data / "ballast"
        with Load(served.urls[0], clients=4) as load:
            load.seen(60)
            with ballast.open("wb") as file:
                file.write(bytes(served.postgres.free() - LEFT_MB * 1_000_000))
            filled = time.monotonic()
            refused = lambda: [o for o in load.outcomes if o.kind == "store" and o.status == 503 and o.at > filled]
            has_ended = lambda: served.postgres.process.poll() is not None
            if log_first:
                wait_for("PostgreSQL has no room for its log", lambda: has_ended() or served.postgres.needs_a_new_file(), 120)
            wanted = REFUSALS_WITHOUT_SERVER if log_first else REFUSALS
            wait_for("refusals", lambda: len(refused()) >= wanted, 120)
            ended = has_ended()
            full_until = time.monotonic()
            ballast.unlink()
            if ended:
                # Whoever runs it starts it again; it does not start without room either.
                served.postgres.serve(served.programs, "postgres-again")
            freed = time.monotonic()
            load.seen(60)
        load.report(f"{LEFT_MB} MB left of {SIZE_MB}, {'its log needs more' if log_first else 'tables need more'}")
        print(f"PostgreSQL {'ended' if ended else 'went on'}; {len(refused())} documents refused, the first {refused()[0].at - filled:.1f} s after")
        full = [o for o in load.outcomes if o.at > refused()[0].at and o.at + o.seconds < full_until]
        for kind in load.KINDS:
            some = [o for o in full if o.kind == kind]
            print(f"    while it was full: {kind} {sum(o.failed for o in some)} of {len(some)} failed")
        first = min(o.at + o.seconds - freed for o in load.outcomes if o.kind == "store" and not o.failed and o.at > freed)
        print(f"the first document was stored {first:.1f} s after there was room")
        stored_once(served, load.acknowledged)
        expect(ended or not log_first, "PostgreSQL went on: its log had room")
        expect(not [o for o in full if o.failed and o.kind == "embed"], "embedding failed as well")
        if not ended:
            expect(not [o for o in full if o.failed and o.kind == "search"], "searches failed as well")
            unclear = [o for o in refused() if "database_full" not in o.detail]
            expect(not unclear, f"{len(unclear)} refusals do not say why: {unclear[:1]}")
        odd = [o for o in load.failures() if o.status != 503 or o.retry_after is None]
        expect(not odd, f"{len(odd)} failed with something else than 503 and Retry-After: {odd[:1]}")


main()
