#!/usr/bin/env python3
"""llama.cpp for `cargo bench --bench generate`, where there is no `llama-bench`: its options and its JSON.

It calls the shared libraries of llama.cpp that the npm package @node-llama-cpp/linux-x64 has for each processor:

    npm install --ignore-scripts --prefix target/llama @node-llama-cpp/linux-x64
    LLAMA_BENCH=benches/compare/llama_bench.py cargo bench --bench generate

LLAMA_LIBRARIES names another folder with them. Of llama.cpp's structures only the first fields are known here (they
are checked by their defaults), and larger ones are passed, which the calling convention of x86-64 allows.
"""

import argparse
import ctypes
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "target/llama/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
BATCH = 512


class Model(ctypes.Structure):
    _fields_ = [("rest", ctypes.c_char * 1024)]


class Context(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")]
    _fields_ += [("rest", ctypes.c_char * 1024)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True)
    for name, default in {"-p": 512, "-n": 0, "-d": 0, "-t": 2, "-r": 1}.items():
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("-o", choices=["json"])
    options = parser.parse_args()
    llama = Llama(options.m, options.t)
    llama.decode(range(1, 33))  # touches the weights, before anything is timed
    rates = [llama.write(options.d, options.n) if options.n else llama.read(options.p) for _ in range(options.r)]
    print(json.dumps([{"avg_ts": sum(rates) / len(rates)}]))


class Llama:
    def __init__(self, file, threads):
        folder = pathlib.Path(os.environ.get("LLAMA_LIBRARIES", PACKAGE))
        # What they need of each other is beside them.
        for name in ("libggml-base.so", "libggml.v*.so"):
            library = ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)
        library.ggml_backend_load_all_from_path(str(folder).encode())
        self.library = ctypes.CDLL(str(next(folder.glob("libllama.v*.so"))))
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.library.llama_log_set(self.quiet, None)
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory", "llama_get_logits"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.llama_model_default_params.restype = Model
        self.library.llama_context_default_params.restype = Context
        self.library.llama_batch_get_one.restype = Batch
        model = self.library.llama_model_load_from_file(file.encode(), self.library.llama_model_default_params())
        parameters = self.library.llama_context_default_params()
        defaults = [parameters.n_ctx, parameters.n_batch, parameters.n_ubatch, parameters.n_seq_max]
        if not model or defaults != [512, 2048, 512, 1]:
            sys.exit(f"no model, or another llama.cpp than this script knows: {defaults}")
        parameters.n_ctx, parameters.n_batch = 2048, BATCH
        self.context = ctypes.c_void_p(self.library.llama_init_from_model(ctypes.c_void_p(model), parameters))
        self.library.llama_set_n_threads(self.context, threads, threads)

    def decode(self, tokens):
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if self.library.llama_decode(self.context, self.library.llama_batch_get_one(array, len(tokens))):
            sys.exit("llama_decode failed")

    def clear(self):
        memory = ctypes.c_void_p(self.library.llama_get_memory(self.context))
        self.library.llama_memory_clear(memory, ctypes.c_bool(True))

    def read(self, count):
        """Tokens a second; as in llama-bench it does not matter which they are."""
        self.clear()
        start = time.perf_counter()
        self.decode(range(100, 100 + count))
        self.library.llama_synchronize(self.context)
        return count / (time.perf_counter() - start)

    def write(self, depth, count):
        """Tokens a second after `depth` others, without the choice of the next one."""
        self.clear()
        if depth:
            self.decode(range(100, 100 + depth))
        self.library.llama_synchronize(self.context)
        start = time.perf_counter()
        for token in range(count):
            self.decode([1000 + token])
            self.library.llama_get_logits(self.context)
        return count / (time.perf_counter() - start)


main()
