"""A peer of `run.py`: commands on standard input, one JSON a line, answers on standard output.

    python peer.py onnxruntime|sentence-transformers MODEL_FOLDER [GRAPH]

sentence-transformers runs its own model and pooling on batches of tokenised
texts sorted by length, ONNX Runtime the exported graph the same way; neither
counts tokenisation.
"""

import json
import os
import sys
import time

import numpy

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SHAPE = (2048, 384, 1536)


def padded(texts):
    longest = max(len(text) for text in texts)
    ids = numpy.zeros((len(texts), longest), dtype=numpy.int64)
    mask = numpy.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


class OnnxRuntime:
    def __init__(self, folder, graph):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.runtime, self.options = onnxruntime, options
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def embed(self, texts):
        ids, mask = padded(texts)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        wanted = {value.name for value in self.session.get_inputs()}
        (states,) = self.session.run(None, {name: value for name, value in given.items() if name in wanted})
        weights = mask[:, :, None].astype(numpy.float32)
        mean = (states * weights).sum(1) / weights.sum(1)
        return mean / numpy.linalg.norm(mean, axis=1, keepdims=True)

    def peak(self):
        from onnx import TensorProto, helper

        rows, inputs, outputs = SHAPE
        weights = numpy.random.rand(inputs, outputs).astype(numpy.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["c"])],
            "product",
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, [rows, inputs])],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT, [rows, outputs])],
            [helper.make_tensor("b", TensorProto.FLOAT, [inputs, outputs], weights.tobytes(), raw=True)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        session = self.runtime.InferenceSession(model.SerializeToString(), self.options)
        a = numpy.random.rand(rows, inputs).astype(numpy.float32)
        return best_gflops(lambda: session.run(None, {"a": a}))


class SentenceTransformers:
    def __init__(self, folder):
        import sentence_transformers
        import torch

        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        self.torch = torch
        # The weights' folder may lack the files that say how to pool.
        transformer = sentence_transformers.models.Transformer(folder)
        pooling = sentence_transformers.models.Pooling(transformer.get_word_embedding_dimension(), "mean")
        normalise = sentence_transformers.models.Normalize()
        self.model = sentence_transformers.SentenceTransformer(
            modules=[transformer, pooling, normalise], device="cpu"
        )
        self.model.eval()

    def embed(self, texts):
        ids, mask = (self.torch.from_numpy(array) for array in padded(texts))
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": self.torch.zeros_like(ids)}
        return self.model(given)["sentence_embedding"].numpy()

    def peak(self):
        a, b = self.torch.rand(SHAPE[:2]), self.torch.rand(SHAPE[1:])
        return best_gflops(lambda: a @ b)


def best_gflops(product, times=20):
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - started)
    return 2e-9 * SHAPE[0] * SHAPE[1] * SHAPE[2] / best


def main(kind, *arguments):
    peer = {"onnxruntime": OnnxRuntime, "sentence-transformers": SentenceTransformers}[kind](*arguments)
    print(json.dumps({"threads": THREADS}), flush=True)
    texts, vectors = [], []
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        started = time.perf_counter()
        match command["do"]:
            case "texts":
                texts = command["ids"]
            case "all":
                batch = command["batch"] or len(texts)
                order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
                vectors = [None] * len(texts)
                for start in range(0, len(order), batch):
                    part = order[start : start + batch]
                    for index, vector in zip(part, peer.embed([texts[index] for index in part])):
                        vectors[index] = vector
                answer = {"seconds": time.perf_counter() - started}
            case "one":
                peer.embed([texts[command["index"]]])
                answer = {"seconds": time.perf_counter() - started}
            case "vectors":
                answer = {"vectors": [vector.tolist() for vector in vectors]}
            case "peak":
                answer = {"gflops": peer.peak()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
