"""Compares ragway's embedding engine with its peers on the same texts, in alternating short turns.

    python3 benches/compare/run.py [--model FOLDER] [--texts FILE] [--turns N] [--python PYTHON]

Sets up the peers in target/compare/venv (several GB: PyTorch), exports the
model as an fp32 ONNX graph, builds ragway's engine with --release and prints a
table. --python names a Python that has the packages already, --texts a file
with one text a line; without it the texts are made here. Machines drift and
neighbours disturb: only ratios within one run count.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "compare"
PACKAGES = ["numpy<2", "onnx", "onnxruntime", "sentence-transformers==3.0.1", "transformers==4.44.2", "torch"]
TEXTS = 563
QUERY_TOKENS = 10
BATCHES = [8, 32]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = os.environ.get("RAGWAY_TEST_CACHE", ROOT / "target" / "test-cache")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path(cache) / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=pathlib.Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--python", type=pathlib.Path)
    options = parser.parse_args()

    python = options.python or set_up()
    WORK.mkdir(parents=True, exist_ok=True)
    graph = WORK / "model.onnx"
    run([python, ROOT / "benches/compare/prepare.py", options.model, graph, WORK / "ids.json", write_texts(options.texts)])
    run(["cargo", "build", "--release", "--locked", "--example", "engine"], cwd=ROOT)
    engine, peer = TARGET / "release/examples/engine", ROOT / "benches/compare/peer.py"
    workers = {
        "ragway": Worker([engine, "f32", options.model]),
        "ragway bf16": Worker([engine, "bf16", options.model]),
        "ragway int8": Worker([engine, "int8", options.model]),
        "ONNX Runtime": Worker([python, peer, "onnxruntime", options.model, graph]),
        "sentence-transformers": Worker([python, peer, "sentence-transformers", options.model]),
        "candle BertModel": Worker([engine, "candle", options.model]),
    }
    compare(workers, json.loads((WORK / "ids.json").read_text()), options)


def set_up():
    python = WORK / "venv" / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", WORK / "venv"])
    run([python, "-m", "pip", "install", "-q", *PACKAGES])
    return python


def run(command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def write_texts(given):
    """The texts as a JSON file: those of `given`, or made from a few words with a fixed seed."""
    path = WORK / "texts.json"
    texts = given.read_text(encoding="utf-8").splitlines() if given else list(made_texts())
    path.write_text(json.dumps([text for text in texts if text.strip()]))
    return path


def made_texts():
    """Half questions, half passages of one to twelve sentences."""
    chance = random.Random(7)
    who = "harbour master,pilot,crane driver,ferry,customs officer,lighthouse keeper,shipowner,diver".split(",")
    does = "reports,inspects,repairs,loads,delays,measures,paints,signs for,weighs,unloads".split(",")
    what = "anchor chain,cargo manifest,berth fee,tide table,mooring line,cold store,timber deck,buoy,radar".split(",")
    when = "before noon,at high water,after the storm,twice a week,in 1987,without notice,every winter".split(",")
    pick = chance.choice
    sentence = lambda: f"The {pick(who)} {pick(does)} the {pick(what)} of quay {chance.randrange(90)} {pick(when)}."
    for _ in range(TEXTS):
        if chance.random() < 0.5:
            yield f"Which {pick(what)} does the {pick(who)} check {pick(when)}?"
        else:
            yield " ".join(sentence() for _ in range(1 + min(11, int(chance.expovariate(0.28)))))


class Worker:
    def __init__(self, command):
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.threads = json.loads(self.process.stdout.readline())["threads"]
        self.rest_mb = self.memory("VmRSS")

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def memory(self, field):
        """MB, 0 where the system does not say."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(field)), 0)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def compare(workers, prepared, options):
    ids, mflop = prepared["ids"], prepared["mflop_a_token"]
    tokens = sum(map(len, ids))
    query = min(range(len(ids)), key=lambda index: abs(len(ids[index]) - QUERY_TOKENS))
    for worker in workers.values():
        worker.ask(do="texts", ids=ids)
    batch = {name: best_batch(name, worker) for name, worker in workers.items()}
    whole = {name: [] for name in workers}
    singly = {name: [] for name in workers}
    one = {name: [] for name in workers}
    together = {name: [] for name in workers}
    peaks = {}
    for _ in range(options.turns):
        for name, worker in workers.items():
            if not name.startswith("ragway"):
                peaks.setdefault(name, []).append(worker.ask(do="peak")["gflops"])
        for name, worker in workers.items():
            whole[name].append(worker.ask(do="all", batch=batch[name])["seconds"])
        vectors = {name: worker.ask(do="vectors")["vectors"] for name, worker in workers.items()}
        for name, worker in workers.items():
            one[name] += [worker.ask(do="one", index=query)["seconds"] * 1e3 for _ in range(40)]
        for name, worker in workers.items():
            worker.ask(do="texts", ids=ids[:100])
            calls = [worker.ask(do="one", index=index)["seconds"] for index in range(min(100, len(ids)))]
            singly[name].append(sum(calls))
            together[name].append(worker.ask(do="all", batch=batch[name])["seconds"])
            worker.ask(do="texts", ids=ids)
    peak = max(max(values) for values in peaks.values())

    print(f"{len(ids)} texts, {tokens} tokens, {mflop:.2f} MFLOP a token; one query: {len(ids[query])} tokens")
    print(f"{platform.machine()}, {cpu()}, threads {({name: worker.threads for name, worker in workers.items()})}")
    print("2048×384×1536, best GFLOP/s: " + ", ".join(f"{name} {max(values):.0f}" for name, values in peaks.items()))
    print(f"floor: {tokens * mflop / 1e3 / peak:.2f} s for all texts at that rate\n")
    print("| | batch | texts/s | GFLOP/s | share of fp32 peak | × ragway's time | query P50 ms | P95 ms | × P50 | 100 texts: calls / one | MB at rest | MB most | least cosine | mean |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    median = {name: statistics.median(times) for name, times in whole.items()}
    for name, worker in workers.items():
        gflops = tokens * mflop / 1e3 / median[name]
        ordered, first = sorted(one[name]), statistics.median(one["ragway"])
        cosines = [dot(a, b) for a, b in zip(vectors[name], vectors["sentence-transformers"])]
        cells = [
            name,
            batch[name] or "all",
            f"{len(ids) / median[name]:.0f}",
            f"{gflops:.0f}",
            f"{gflops / peak:.2f}",
            f"{median[name] / median['ragway']:.2f}",
            f"{statistics.median(ordered):.2f}",
            f"{ordered[len(ordered) * 95 // 100]:.2f}",
            f"{statistics.median(ordered) / first:.2f}",
            f"{statistics.median(singly[name]):.3f} s / {statistics.median(together[name]):.3f} s",
            worker.rest_mb,
            worker.memory("VmHWM"),
            f"{min(cosines):.6f}",
            f"{statistics.mean(cosines):.6f}",
        ]
        print("| " + " | ".join(map(str, cells)) + " |")
    for worker in workers.values():
        worker.stop()


def best_batch(name, worker):
    """Peers pad: each gets the batch size that suits it. ragway takes all at once."""
    if name.startswith("ragway"):
        worker.ask(do="all", batch=0)
        return 0
    times = {batch: min(worker.ask(do="all", batch=batch)["seconds"] for _ in range(2)) for batch in BATCHES}
    return min(times, key=times.get)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def cpu():
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
