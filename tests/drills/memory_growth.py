"""200,000 cached embeddings and searches: the gateway's memory grows by 24 MB at most.

Of ten requests nine are embeddings of 500 texts, one is a search of 200; every thousandth stores a document, so that
searches are made anew. It ends after ten minutes, with as many as there were.
"""

import json
import re
import time
from contextlib import closing
from pathlib import Path

from drill import connection, deployment, expect, prepare

REQUESTS, WARM, LIMIT_S, MOST_MB = 200_000, 5_000, 600, 24


def resident_mb(process: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) * 1024 / 1e6


def request(number: int) -> tuple[str, dict]:
    if number % 1000 == 999:
        return "/api/v1/documents", {"content": f"Ferry {number % 7} sails at noon.", "external_id": f"ferry-{number % 7}"}
    if number % 10 == 9:
        return "/api/v1/search", {"query": f"When does ferry {number % 200} sail?"}
    return "/api/v1/embed/cached", {"texts": [f"ferry number {number % 500}"]}


def main() -> None:
    with deployment(gateways=1) as served, closing(connection(served.urls[0])) as server:
        prepare(served.urls[0])
        process, started, sent, seen = served.gateways[0].pid, time.monotonic(), 0, []
        while sent < REQUESTS and time.monotonic() - started < LIMIT_S:
            path, body = request(sent)
            server.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = server.getresponse()
            assert response.status in (200, 201), response.read()
            response.read()
            sent += 1
            if sent % WARM == 0:
                seen.append(resident_mb(process))
        expect(len(seen) > 1, f"only {sent} requests in {LIMIT_S} s")
        before, after = seen[0], resident_mb(process)
        print(f"{sent} requests in {time.monotonic() - started:.0f} s; resident after {WARM}: {before:.1f} MB, at the end: {after:.1f} MB, at most {max(seen):.1f} MB")
        expect(after - before <= MOST_MB, f"it grew by {after - before:.1f} MB")


main()
