"""What encryption at rest costs: the same documents and searches at two running ragways, one of which has a key.

    python3 benches/sealed.py http://127.0.0.1:8080 http://127.0.0.1:8081 [--documents 500] [--searches 1000]

The second one has RAGWAY_ENCRYPTION_KEYS; each has a database of its own on the same server, both empty. Documents are
stored in alternating batches, searches (k = 10) sent in alternating turns: only the ratios count, neighbours disturb.
"""

import argparse
import http.client
import json
import random
import statistics
import time
import urllib.parse

WORDS = (
    "ferry harbour pilot crane tide winter timetable fare bicycle island storm quay rope engine lighthouse anchor cargo deck "
    "passenger captain signal bridge weather ticket season engineer buoy channel dock freight"
).split()
BATCH = 10
TURN = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain")
    parser.add_argument("sealed")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--searches", type=int, default=1000)
    options = parser.parse_args()
    servers = [
        http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=300)
        for url in (options.plain, options.sealed)
    ]
    chance = random.Random(5)
    stored, passages = store(servers, chance, options.documents)
    search(servers, chance, 2 * TURN)
    searched = search(servers, chance, options.searches)
    print(f"{options.documents} documents, {passages} passages each")
    for name, seconds, latencies in zip(("plain", "sealed"), stored, searched):
        print(
            f"{name}: stored in {sum(seconds):.1f} s; search P50 {statistics.median(latencies):.2f} ms, "
            f"P95 {statistics.quantiles(latencies, n=20)[-1]:.2f} ms"
        )
    # Of pairs that were measured one after the other.
    storing = statistics.median(sealed / plain for plain, sealed in zip(*stored))
    searching = statistics.median(searched[1]) / statistics.median(searched[0])
    print(f"sealed / plain: storing {storing:.3f} (median of {len(stored[0])} batches), search P50 {searching:.3f}")


def store(servers, chance, documents):
    """Seconds of each batch, of each server; passages that a server has in the end."""
    seconds, passages = ([], []), 0
    for start in range(0, documents, BATCH):
        batch = {"documents": [{"content": text(chance, 600), "external_id": f"d{start + n}"} for n in range(BATCH)]}
        # Whoever comes first alternates.
        for place in (0, 1) if start // BATCH % 2 else (1, 0):
            # The last batch of the other one may have taken longer than a connection is kept.
            servers[place].close()
            begun = time.perf_counter()
            stored = call(servers[place], "/api/v1/documents", batch)
            seconds[place].append(time.perf_counter() - begun)
        passages += sum(document["passages"] for document in stored["documents"])
    return seconds, passages


def search(servers, chance, searches):
    """Milliseconds of each search, of each server."""
    latencies = ([], [])
    for _ in range(searches // TURN):
        queries = [text(chance, 6) for _ in range(TURN)]
        for place in chance.sample((0, 1), 2):
            for query in queries:
                begun = time.perf_counter()
                call(servers[place], "/api/v1/search", {"query": query, "k": 10})
                latencies[place].append(1000 * (time.perf_counter() - begun))
    return latencies


def text(chance, words):
    return " ".join(chance.choices(WORDS, k=words)) + f" {chance.randrange(10**9)}."


def call(server, path, body):
    server.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = server.getresponse()
    answer = json.loads(response.read())
    if response.status >= 300:
        raise SystemExit(f"{path}: {response.status} {answer}")
    return answer


if __name__ == "__main__":
    main()
