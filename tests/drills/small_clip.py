"""A CLIP model of a few thousand weights, made up: it answers where images are read, and finds nothing in them."""

import hashlib
import json
import math
import random
import shutil
import struct
from array import array
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NAME = "clip-small"


def write(folder: Path) -> str:
    """Writes its files and returns its entry of models.toml."""
    made = json.loads((GOLDEN / "clip.json").read_text())["checkpoints"][0]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(made["config"]))
    shutil.copy(GOLDEN / "clip/tokenizer.json", folder)
    (folder / "model.safetensors").write_bytes(safetensors(made["tensors"]))
    entry = f'\n[[embedder]]\nname = "{NAME}"\nkind = "clip"\npooling = "cls"\ndimension = {made["config"]["projection_dim"]}\n'
    entry += f'max_tokens = {made["config"]["text_config"]["max_position_embeddings"]}\nmin_similarity = -1.0\nanswer_cut = 0.3\nload = "lazy"\n'
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        entry += f'[[embedder.files]]\nname = "{file}"\nsha256 = "{digest}"\n'
    return f'{entry}[[embedder.sources]]\nkind = "path"\npath = "{folder}"\n'


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    chance, header, data = random.Random(1), {}, b""
    for name, shape in shapes.items():
        norm = name.endswith("norm.weight") or "layer_norm" in name or "layernorm" in name or "layrnorm" in name
        middle, spread = (float(name.endswith("weight")), 0.1) if norm else (0.0, 0.1)
        values = array("f", (chance.gauss(middle, spread) for _ in range(math.prod(shape)))).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
