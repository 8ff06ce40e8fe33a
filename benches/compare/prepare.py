"""Tokenises the texts of `run.py` and exports the model as an fp32 ONNX graph.

    python prepare.py MODEL_FOLDER GRAPH IDS TEXTS
"""

import json
import pathlib
import sys

import tokenizers
import torch
import transformers

MAX_TOKENS = 256


def main(folder, graph, ids, texts):
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    encodings = tokenizer.encode_batch(json.loads(pathlib.Path(texts).read_text()))
    prepared = {
        "ids": [encoding.ids for encoding in encodings],
        # Of the layers' matrix products; attention, which grows with the length, is not counted.
        "mflop_a_token": 2e-6 * layers * (4 * hidden * hidden + 2 * hidden * inner),
    }
    pathlib.Path(ids).write_text(json.dumps(prepared))
    if not pathlib.Path(graph).exists():
        export(folder, graph)


def export(folder, graph):
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "texts", 1: "tokens"}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        model,
        (example, example, torch.zeros_like(example)),
        graph,
        input_names=names,
        output_names=["states"],
        dynamic_axes={name: axes for name in [*names, "states"]},
        opset_version=17,
        dynamo=False,
    )
    only_states(graph)


def only_states(graph):
    """Drops the pooler, which sentence embeddings do not use."""
    import onnx

    model = onnx.load(graph)
    del model.graph.output[1:]
    onnx.save(model, graph)


if __name__ == "__main__":
    main(*sys.argv[1:])
