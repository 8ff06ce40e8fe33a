"""Questions through HTTP, alone and beside tasks that embed 10,000 passages, at a running ragway.

    python3 benches/beside_bulk.py http://127.0.0.1:8080 [--passages 10000] [--turns 3]

A turn is 300 questions one after another with pauses of 3 to 13 ms; then the tasks are given, and questions are sent
until the last of them has ended. Turns alternate, and only their ratios count: neighbours disturb.
"""

import argparse
import http.client
import json
import random
import statistics
import time
import urllib.parse

QUESTION = "When does the last ferry leave the northern harbour today?"
TASK = 2000
QUESTIONS = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gateway")
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    server = http.client.HTTPConnection(urllib.parse.urlsplit(options.gateway).netloc, timeout=120)
    chance = random.Random(3)
    questions(server, chance, lambda sent: sent < 50)
    for turn in range(options.turns):
        idle = questions(server, chance, lambda sent: sent < QUESTIONS)
        started = time.monotonic()
        tasks = [give(server, chance, turn) for _ in range(options.passages // TASK)]
        beside = questions(server, chance, lambda sent: sent % 50 or not ended(server, tasks))
        seconds = time.monotonic() - started
        print(
            f"idle {describe(idle)}; beside the tasks {describe(beside)}; ratio of P95 "
            f"{percentile(beside, 95) / percentile(idle, 95):.2f}; {options.passages} passages in {seconds:.0f} s",
            flush=True,
        )


def questions(server, chance, more):
    """Milliseconds of each question."""
    latencies = []
    while more(len(latencies)):
        time.sleep(chance.uniform(0.003, 0.013))
        # Each question is another one, so that no cache answers it.
        text = f"{QUESTION} {chance.randrange(10**6)}"
        start = time.perf_counter()
        call(server, "POST", "/api/v1/embed", {"texts": [text]})
        latencies.append(1000 * (time.perf_counter() - start))
    return latencies


def give(server, chance, turn):
    words = "ferry harbour pilot crane tide winter timetable fare bicycle island storm quay rope engine".split()
    passage = lambda: " ".join(chance.choices(words, k=60)) + f" {turn} {chance.randrange(10**9)}"
    return call(server, "POST", "/api/v1/embed/async", {"texts": [passage() for _ in range(TASK)]})["task_id"]


def ended(server, tasks):
    states = [call(server, "GET", f"/api/v1/tasks/{task}")["status"] for task in tasks]
    failed = [state for state in states if state in ("failed", "cancelled")]
    if failed:
        raise SystemExit(f"a task ended as {failed[0]}")
    return all(state == "succeeded" for state in states)


def call(server, method, path, body=None):
    server.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
    answer = server.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status} {text[:500].decode()}")
    return json.loads(text)


def percentile(values, percent):
    return statistics.quantiles(values, n=100)[percent - 1]


def describe(values):
    return f"P50 {percentile(values, 50):.2f} ms, P95 {percentile(values, 95):.2f} ms ({len(values)} questions)"


main()
