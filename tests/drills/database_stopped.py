"""PostgreSQL is stopped for 10 s under load: 503 with Retry-After and nothing else, and no acknowledged document lost.

What needs no database goes on: no embedding fails.
"""

import time

from drill import Load, deployment, expect, percentile, prepare, stored_once
from stack import stop

AWAY_S, CLIENTS = 10, 24


def main() -> None:
    with deployment() as served:
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        with Load(front.url, CLIENTS) as load, Load(front.url, clients=2, kinds=("embed", "cached")) as embedding:
            load.seen(60)
            gone = time.monotonic()
            stop(served.postgres.process)
            time.sleep(AWAY_S)
            served.postgres.serve(served.programs, "postgres-again")
            back = time.monotonic()
            load.seen(300)
        load.report(f"database away for {AWAY_S} s")
        print(f"    the slowest failure: {max((o.seconds for o in load.failures()), default=0):.1f} s")
        embedding.report("meanwhile, clients that only embed")
        away = [o.seconds for o in embedding.outcomes if gone < o.at < back]
        print(f"    {len(away)} of them while it was away: median {percentile(away, 0.5) * 1000:.0f} ms, P95 {percentile(away, 0.95) * 1000:.0f} ms")
        late = [o.at + o.seconds - back for o in load.failures() if o.at + o.seconds > back]
        print(f"failures after the database took connections again: {len(late)}, the last {max(late, default=0):.1f} s after it")
        first = min(o.at + o.seconds - back for o in load.outcomes if o.kind == "store" and not o.failed and o.at + o.seconds > back)
        print(f"the first document was stored {first:.1f} s after it")
        stored_once(served, load.acknowledged)
        embedded = [o for some in (load, embedding) for o in some.failures() if o.kind in ("embed", "cached")]
        expect(not embedded, f"{len(embedded)} embeddings failed, which need no database: {embedded[:1]}")
        odd = [o for o in load.failures() if o.status != 503 or o.retry_after is None]
        expect(not odd, f"{len(odd)} failed with something else than 503 and Retry-After")


main()
