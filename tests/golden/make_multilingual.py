"""Makes a small checkpoint of the architecture of the hub's multilingual models.

    pip install transformers==4.44.2 torch==1.13.1 sentencepiece==0.2.3 protobuf
    python make_multilingual.py multilingual

writes into the folder:

- `tokenizer.json`: a Unigram tokenizer that sentencepiece trains on the
  sentences below, with a compiled map of characters, converted by transformers
  as it converts XLM-R's. The tokenizers of paraphrase-multilingual-MiniLM-L12-v2
  and multilingual-e5-small were made so.
- `config.json`: a BERT encoder of two layers; positions count from 0 as in
  BERT, not from 2 as in XLM-R, which is also how those two models have it.
- `golden.json`: token ids and vectors of the reference implementation.

The weights are not kept: `weight` computes each from the tensor's name and the
place within it, in steps that are exact in 32-bit floating point, and
`tests/multilingual.rs` does the same.
"""

import io
import json
import pathlib
import platform
import sys
import tempfile

import numpy
import sentencepiece
import tokenizers
import torch
import transformers
from transformers import BertConfig, BertModel, XLMRobertaTokenizer, XLMRobertaTokenizerFast

SENTENCES = [
    "The last ferry leaves the island at ten in the evening.",
    "A bicycle costs three euros and children travel free.",
    "Die letzte Fähre verlässt die Insel um zehn Uhr am Abend.",
    "Ein Fahrrad kostet drei Euro und Kinder fahren frei.",
    "Le dernier bac quitte l'île à dix heures du soir.",
    "Un vélo coûte trois euros et les enfants voyagent gratuitement.",
    "El último barco sale de la isla a las diez de la noche.",
    "Последний паром уходит с острова в десять часов вечера.",
    "Велосипед стоит три евро, а дети едут бесплатно.",
    "最終のフェリーは午後十時に島を出ます。",
    "自転車は三ユーロで、子供は無料です。",
    "末班渡轮晚上十点离开小岛。",
    "마지막 배는 밤 열 시에 섬을 떠납니다.",
    "آخر عبارة تغادر الجزيرة في العاشرة مساء.",
    "query: passage: When does it leave? How much is it?",
]

TEXTS = [
    "When does the last ferry leave the island?",
    "Ein Fahrrad kostet drei Euro.",
    "Les enfants voyagent gratuitement à dix heures.",
    "Последний паром уходит в десять часов.",
    "最終のフェリーは三ユーロです。",
    "末班渡轮离开小岛。",
    "마지막 배는 섬을 떠납니다.",
    "آخر عبارة تغادر الجزيرة",
    "  ＦＥＲＲＹ\tfor  ﬁve ",
    "cafe\u0301 and ve\u0301lo",
    "runes ᚠᚢᚦ and 🚀",
    "",
    "The ferry leaves and leaves. " * 20,
]

MAX_TOKENS = 64


def weight(name: str, shape) -> torch.Tensor:
    """Uniform between -1/2 and 1/2; a LayerNorm's scale is around 1, biases are a 16th so large."""
    seed = 2166136261
    for byte in name.encode():
        seed = ((seed ^ byte) * 16777619) % 2**32
    x = (numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64) * 2654435761 + seed) % 2**32
    x ^= x >> numpy.uint64(15)
    x = x * 2246822519 % 2**32
    x ^= x >> numpy.uint64(13)
    values = (x >> numpy.uint64(8)).astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)
    if name.endswith("LayerNorm.weight"):
        values += numpy.float32(1)
    elif name.endswith("bias"):
        values /= numpy.float32(16)
    return torch.from_numpy(values.reshape(tuple(shape)))


def make_tokenizer(folder: pathlib.Path) -> XLMRobertaTokenizer:
    rules = {"\t": " ", "\n": " ", "\u3000": " ", "\u200b": " ", "ﬁ": "fi", "\u007f": ""}
    rules |= {chr(0xFF21 + i): chr(0x41 + i) for i in range(26)}
    rules |= {"e\u0301": "é", "a\u0300": "à", "u\u0302": "û", "i\u0302": "î"}
    points = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.TemporaryDirectory() as place:
        table = pathlib.Path(place, "rules.tsv")
        table.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in rules.items()))
        model = pathlib.Path(place, "small.model")
        with model.open("wb") as writer:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(SENTENCES), model_writer=writer, vocab_size=400, hard_vocab_limit=False,
                character_coverage=1.0, normalization_rule_tsv=str(table), minloglevel=2, num_threads=1,
            )
        slow = XLMRobertaTokenizer(str(model))
        fast = XLMRobertaTokenizerFast(str(model))
        fast.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    return slow


def make_model(folder: pathlib.Path, tokens: int) -> BertModel:
    config = BertConfig(
        # The published tables have rows that no token uses; so has this one.
        vocab_size=tokens + 5, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=MAX_TOKENS, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0,
    )
    (folder / "config.json").write_text(config.to_json_string(use_diff=True))
    model = BertModel(config, add_pooling_layer=False).eval()
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype == torch.float32:
            state[name] = weight(name, tensor.shape)
    model.load_state_dict(state)
    return model


def case(model: BertModel, tokenizer: XLMRobertaTokenizer, prefix: str, text: str) -> dict:
    ids = tokenizer(prefix + text)["input_ids"]
    read = ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([read])).last_hidden_state[0]
    vector = torch.nn.functional.normalize(states.mean(0), dim=0)
    return {
        "prefix": prefix, "text": text, "ids": read, "tokens_in_full": len(ids),
        "vector": [round(float(x), 6) for x in vector],
    }


def main(folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    tokenizer = make_tokenizer(folder)
    model = make_model(folder, len(tokenizer))
    versions = {
        "python": platform.python_version(), "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__,
        "torch": torch.__version__, "numpy": numpy.__version__,
    }
    head = {
        "generator": "tests/golden/make_multilingual.py",
        "versions": versions,
        "max_tokens": MAX_TOKENS,
        "shapes": {name: list(t.shape) for name, t in model.state_dict().items() if t.dtype == torch.float32},
    }
    cases = [case(model, tokenizer, prefix, text) for prefix in ("", "query: ") for text in TEXTS]
    out = io.StringIO()
    out.write(json.dumps(head, indent=1)[: -len("\n}")] + ',\n "cases": [\n')
    out.write(",\n".join(json.dumps(case) for case in cases) + "\n ]\n}\n")
    (folder / "golden.json").write_text(out.getvalue())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
