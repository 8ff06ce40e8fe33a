"""50,000 cached embeddings, or as many as three minutes allow: the gateway's memory grows by 24 MB at most."""

import json
import re
import time
from contextlib import closing
from pathlib import Path

from drill import connection, deployment, expect, prepare

REQUESTS, WARM, TEXTS, LIMIT_S, MOST_MB = 50_000, 5_000, 500, 180, 24


def resident_mb(process: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) * 1024 / 1e6


def main() -> None:
    with deployment(gateways=1) as served, closing(connection(served.urls[0])) as server:
        prepare(served.urls[0])
        started, before, sent = time.monotonic(), 0.0, 0
        while sent < REQUESTS and time.monotonic() - started < LIMIT_S:
            body = json.dumps({"texts": [f"ferry number {sent % TEXTS}"]})
            server.request("POST", "/api/v1/embed/cached", body, {"content-type": "application/json"})
            response = server.getresponse()
            assert response.status == 200, response.read()
            response.read()
            sent += 1
            if sent == WARM:
                before = resident_mb(served.gateways[0].pid)
        expect(sent > WARM, f"only {sent} requests in {LIMIT_S} s")
        after = resident_mb(served.gateways[0].pid)
        print(f"{sent} requests in {time.monotonic() - started:.0f} s; resident after {WARM}: {before:.1f} MB, at the end: {after:.1f} MB")
        expect(after - before <= MOST_MB, f"it grew by {after - before:.1f} MB")


main()
