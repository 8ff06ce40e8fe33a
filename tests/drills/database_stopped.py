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
        late = [o.at + o.seconds - back for o in load.failures() if o.at + o.seconds > back]
        print(f"failures after the database took connections again: {len(late)}, the last {max(late, default=0):.1f} s after it")
        first = min(o.at + o.seconds - back for o in load.outcomes if o.kind == "store" and not o.failed and o.at + o.seconds > back)
        print(f"the first document was stored {first:.1f} s after it")
        stored_once(served, load.acknowledged)
        odd = [o for o in load.failures() if o.status != 503 or o.retry_after is None]
        expect(not odd, f"{len(odd)} failed with something else than 503 and Retry-After")


main()
