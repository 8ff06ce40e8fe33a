"""Records golden values of CLIP with its reference implementation.

    pip install torch transformers==4.44.2 pillow==13.0.0 numpy
    python make_clip.py          # writes clip.json and clip/ beside itself

The published weights are large and cannot be had everywhere, so small ones of
the same architecture are made from a formula (`weight` below) that the tests
repeat bit for bit in Rust; no weights are stored. The pictures and the
tokenizer are made here too.

For each text: its token ids, the normalised vector, and for some the state at
the end-of-text token after the embeddings and after each layer. For each
picture: every 61st value of the preprocessed pixels (height x width x channel,
0 to 255, before scaling) and the normalised vector; for some the class token's
state after each layer.
"""

import base64
import io
import json
import math
import pathlib
import platform
import tempfile

import numpy
import PIL
import tokenizers
import torch
import transformers
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "clip"
STRIDE = 61

CORPUS = (
    "a photo of a cat and a photo of a dog on the red car in the green park with two people under the "
    "blue sky a drawing of the house by the sea the ferry leaves the harbour in the morning a bicycle "
    "stands at the wall the picture shows mountains trees clouds and a lighthouse near the old town"
)
TEXTS = {
    "caption": "a photo of a red car",
    "upper case": "A PHOTO OF A RED CAR",
    "sentence": "The ferry leaves the harbour in the morning.",
    "contraction": "it's the dog's house, isn't it?",
    "numbers": "2 people, 15 dogs & 307 bicycles!",
    "accents": "Où est la crème brûlée?",
    "decomposed accents": "Cafe\u0301 a\u0300 Zu\u0308rich",
    "chinese": "红色的汽车",
    "emoji": "a dog \U0001f415 on a bicycle \U0001f6b2",
    "whitespace": "  a \t red\n\n car  ",
    "special token": "before <|endoftext|> after",
    "empty": "",
    "long": "two people under the blue sky near the old town " * 12,
}


def weight(name: str, shape: list[int]) -> numpy.ndarray:
    """Values of a tensor: offset + scale * u, u in [-1, 1) from a hash of name and position."""
    offset, scale = spread(name, shape)
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with numpy.errstate(over="ignore"):
        position = numpy.arange(1, math.prod(shape) + 1, dtype=numpy.uint64)
        z = numpy.uint64(seed) + position * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    u = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**23) - numpy.float32(1)
    return (numpy.float32(offset) + numpy.float32(scale) * u).reshape(shape)


def spread(name: str, shape: list[int]) -> tuple[float, float]:
    """Offset and scale (a power of two, so that both languages round alike)."""
    if "norm" in name or "layrnorm" in name:
        return (1.0, 0.25) if name.endswith("weight") else (0.0, 0.125)
    if "embedding" in name and "patch" not in name:
        return 0.0, 0.5
    if name.endswith("bias"):
        return 0.0, 0.0625
    fan_in = math.prod(shape[1:])
    return 0.0, 2.0 ** round(math.log2(2 / math.sqrt(fan_in)))


def tokenizer() -> CLIPTokenizerFast:
    """Byte-level BPE with the merges of a few sentences."""
    letters = list(bytes_to_unicode().values())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    words = [list(word[:-1]) + [word[-1] + "</w>"] for word in CORPUS.split()]
    merges = []
    while len(merges) < 150:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    vocabulary += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
        (folder / "vocab.json").write_text(json.dumps(ids))
        lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        made = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
        made.save_pretrained(folder)
        whole = json.loads((folder / "tokenizer.json").read_text())
    (FOLDER / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=True, separators=(",", ":")))
    return made


def configuration(size: int, end: int, **other) -> dict:
    """The two checkpoints: one like ViT-B/32 with its legacy end id 2, one that differs where others do."""
    act, patch, eps, image = other["act"], other["patch"], other["eps"], other["image"]
    return {
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": {
            "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": 77, "hidden_act": act,
            "layer_norm_eps": eps, "eos_token_id": end,
        },
        "vision_config": {
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": image, "patch_size": patch, "hidden_act": act, "layer_norm_eps": eps,
        },
    }


def model(config: dict) -> tuple[CLIPModel, dict]:
    made = CLIPModel(CLIPConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    state = {
        name: torch.from_numpy(weight(name, list(tensor.shape)))
        for name, tensor in made.named_parameters()
        if name != "logit_scale"
    }
    made.load_state_dict(state, strict=False)
    return made.eval(), {name: list(tensor.shape) for name, tensor in state.items()}


def scene(width: int, height: int, seed: int) -> Image.Image:
    """A sky, hills, a sun, houses and grain: smooth parts, edges and texture, as a photograph has."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width]
    y, x = y / height, x / width
    hue = random.uniform(0.6, 1.4, 3)
    sky = numpy.stack([90 + 120 * y, 130 + 80 * y, 215 - 40 * y], -1) * hue
    hills = 0.55 + 0.12 * numpy.sin(x * random.uniform(5, 11) + seed) + 0.04 * numpy.sin(x * 31)
    land = numpy.stack([60 + 90 * x, 120 - 50 * x, 40 + 60 * (1 - y)], -1)
    picture = numpy.where((y > hills)[..., None], land, sky)
    grain = random.normal(0, 60, (height // 8 + 2, width // 8 + 2))
    grain = numpy.asarray(
        Image.fromarray(grain.astype(numpy.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
    picture = numpy.clip(picture + 0.3 * grain[..., None], 0, 255).astype(numpy.uint8)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = random.uniform(0, width * 0.9), height * random.uniform(0.45, 0.85)
        wide, high = width * random.uniform(0.04, 0.16), height * random.uniform(0.06, 0.2)
        colour = tuple(int(value) for value in random.integers(20, 250, 3))
        draw.rectangle([left, top, left + wide, top + high], fill=colour)
        draw.line([left, top, left + wide / 2, top - high / 2, left + wide, top], fill=(150, 30, 20), width=3)
    sun = (width * random.uniform(0.1, 0.8), height * 0.12, width * 0.09)
    draw.ellipse([sun[0], sun[1], sun[0] + sun[2], sun[1] + sun[2]], fill=(255, 240, 170))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def pictures() -> dict[str, bytes]:
    def encoded(image: Image.Image, kind: str, **options) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    alpha = scene(150, 190, 5).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    palette = scene(240, 160, 6).quantize(64)
    grey16 = (numpy.asarray(scene(120, 90, 7).convert("L")).astype(numpy.uint16) << 8) + 77
    turned = Image.Exif()
    turned[0x0112] = 6
    mirrored = Image.Exif()
    mirrored[0x0112] = 5
    frames = [scene(160, 120, 10).quantize(64), scene(160, 120, 11).quantize(64)]
    return {
        "landscape.jpg": encoded(scene(500, 330, 1), "JPEG", quality=72),
        "portrait.jpg": encoded(scene(260, 400, 2), "JPEG", quality=80, subsampling=0, progressive=True),
        "turned.jpg": encoded(scene(360, 250, 3), "JPEG", quality=72, exif=turned),
        "mirrored.png": encoded(scene(140, 110, 4).quantize(96), "PNG", exif=mirrored),
        "odd.jpg": encoded(
            scene(61, 45, 16), "JPEG", quality=60, progressive=True, restart_marker_blocks=2
        ),
        "halved.jpg": encoded(scene(75, 58, 17), "JPEG", quality=60, subsampling=1, restart_marker_rows=1),
        "grey.jpg": encoded(scene(300, 260, 9).convert("L"), "JPEG", quality=75),
        "cmyk.jpg": encoded(scene(230, 240, 8).convert("CMYK"), "JPEG", quality=70),
        "alpha.png": encoded(alpha.resize((75, 95)), "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=3),
        "grey16.png": encoded(Image.fromarray(grey16), "PNG"),
        "lossy.webp": encoded(scene(480, 300, 12), "WEBP", quality=70),
        "lossless.webp": encoded(alpha.resize((90, 70)), "WEBP", lossless=True, exact=True),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "wide.png": encoded(scene(400, 24, 13).quantize(32), "PNG"),
        "column.png": encoded(scene(1, 3000, 14), "PNG"),
        "tall.webp": encoded(scene(270, 610, 18), "WEBP", quality=50),
        "small.png": encoded(scene(9, 7, 15), "PNG"),
    }


def opened(content: bytes) -> Image.Image:
    """As transformers opens pictures, except that 16 bits are cut to 8 instead of clipped."""
    image = Image.open(io.BytesIO(content))
    image.seek(0)
    if image.mode.startswith("I"):
        image = Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


def rounded(tensor) -> list[float]:
    return [round(float(value), 6) for value in tensor]


def checkpoint(name: str, config: dict, made: CLIPTokenizerFast, files: dict[str, bytes]) -> dict:
    clip, shapes = model(config)
    edge = config["vision_config"]["image_size"]
    processor = CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    texts, images = [], []
    with torch.no_grad():
        for case, text in TEXTS.items():
            tokens = made(text, truncation=True, return_tensors="pt")
            vector = torch.nn.functional.normalize(clip.get_text_features(**tokens))[0]
            entry = {"name": case, "text": text, "ids": tokens["input_ids"][0].tolist(), "vector": rounded(vector)}
            if case in ("caption", "long"):
                ids = entry["ids"]
                end = ids.index(made.eos_token_id)
                states = clip.text_model(**tokens, output_hidden_states=True).hidden_states
                entry["layers"] = [rounded(state[0, end]) for state in states]
            texts.append(entry)
        for file, content in files.items():
            image = opened(content)
            pixels = processor(image, return_tensors="pt")["pixel_values"]
            whole = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
            sample = whole.transpose(1, 2, 0).astype(numpy.uint8).reshape(-1)[::STRIDE]
            vector = torch.nn.functional.normalize(clip.get_image_features(pixel_values=pixels))[0]
            entry = {
                "file": file,
                "pixels": base64.b64encode(sample.tobytes()).decode(),
                "vector": rounded(vector),
            }
            if file in ("landscape.jpg", "palette.png"):
                states = clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
                entry["layers"] = [rounded(state[0, 0]) for state in states]
            images.append(entry)
    return {"name": name, "config": config, "tensors": shapes, "texts": texts, "images": images}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = tokenizer()
    files = pictures()
    for file, content in files.items():
        (FOLDER / file).write_bytes(content)
    size = len(made)
    legacy = configuration(size, 2, act="quick_gelu", patch=32, eps=1e-5, image=224)
    # Ids above the end-of-text token exist, so that the highest id no longer marks the end.
    other = configuration(size + 4, made.eos_token_id, act="gelu", patch=16, eps=1e-3, image=96)
    golden = {
        "generator": "tests/golden/make_clip.py",
        "versions": {
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": numpy.__version__,
        },
        "stride": STRIDE,
        "checkpoints": [
            checkpoint("legacy", legacy, made, files),
            checkpoint("other", other, made, files),
        ],
    }
    # One line a case keeps differences readable.
    text = json.dumps(golden, ensure_ascii=True)
    for opening in ('{"name": ', '{"file": ', '"tensors": ', '"texts": ', '"images": ', '"stride": '):
        text = text.replace(opening, "\n" + opening)
    (HERE / "clip.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
