"""PostgreSQL is stopped for 10 s under load: 503 with Retry-After and nothing else, and no acknowledged document lost."""

import time

from drill import Load, deployment, expect, prepare, stored_once
from stack import stop

AWAY_S = 10


def main() -> None:
    with deployment() as served:
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        with Load(front.url) as load:
            load.seen(60)
            stop(served.postgres.process)
            time.sleep(AWAY_S)
            served.postgres.serve(served.programs, "postgres-again")
            back = time.monotonic()
            load.seen(150)
        load.report(f"database away for {AWAY_S} s")
        # Requests that began after it was back, up to the last that failed.
        late = [o.at + o.seconds - back for o in load.failures() if o.at + o.seconds > back]
        print(f"the last failure ended {max(late, default=0):.1f} s after the database took connections again")
        stored_once(served, load.acknowledged)
        odd = [o for o in load.failures() if o.status != 503 or o.retry_after is None]
        expect(not odd, f"{len(odd)} failed with something else than 503 and Retry-After")


main()
