"""Records golden vectors of all-MiniLM-L6-v2 with its reference implementation.

    pip install sentence-transformers==3.0.1 transformers==4.44.2
    python make_minilm.py MODEL_FOLDER > minilm.json

MODEL_FOLDER holds the published files (model.safetensors, tokenizer.json,
config.json, modules.json, 1_Pooling/, ...); its weights must be the ones that
models.toml pins, and the script refuses others.

Each text is encoded alone, in 32-bit floating point on the CPU. `tokens` counts
[CLS] and [SEP] and is taken after the truncation at 256; `tokens_in_full` is
what the text would need. Vectors have length 1 and are rounded to six decimals,
which changes no cosine by more than 0.00001.
"""

import hashlib
import json
import pathlib
import platform
import sys

import numpy
import sentence_transformers
import tokenizers
import torch
import transformers

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# 39 tokens a round: seven rounds are over 256 already, so the twins are read alike.
LONG_ROUND = (
    "The harbour office opens at seven; skippers report their draught, cargo and "
    "next port, pay the berth fee, and hang the receipt in the wheelhouse window "
    "until they leave the quay again. "
)

TEXTS = {
    "short question": "How do I reset my password?",
    "statement": "To reset your password, open the settings page and choose “Security”.",
    "single word": "lighthouse",
    "single letter": "a",
    "uppercase": "WARNING: DO NOT OPEN THE VALVE WHILE THE PUMP IS RUNNING",
    "lowercase twin": "warning: do not open the valve while the pump is running",
    "numbers": "In 2023 the plant made 1,204,567 units (up 12.5 %) at 3.14 euros each, phone +49 30 901820.",
    "punctuation": "Well... really?! (yes; no) -- \"quoted\" 'single' [brackets] {braces} <angles> a/b, c&d; e@f #7 * ~ ^ | \\",
    "accents": "Où est la crème brûlée préférée de l’élève naïf à Čáslav, señor Müller-Žižek?",
    "decomposed accents": "Cafe\u0301 cre\u0300me a\u0300 Zu\u0308rich",
    "german": "Die Straßenbahn fährt werktags alle zehn Minuten über die große Brücke.",
    "chinese": "图书馆星期一到星期五上午九点开门。",
    "japanese": "図書館は月曜日から金曜日まで、朝九時に開きます。",
    "korean": "도서관은 평일 아침 아홉 시에 문을 엽니다.",
    "russian": "Библиотека открыта по будням с девяти часов утра.",
    "arabic": "تفتح المكتبة أبوابها في التاسعة صباحا.",
    "emoji": "The launch went well 🚀🎉 – coffee ☕ is on me 👩‍💻",
    "url": "See https://www.example.org/docs/v2/index.html?lang=en&page=3#install for the steps.",
    "code": "fn main() {\n    let total: u64 = (1..=10).map(|x| x * x).sum();\n    println!(\"{total}\");\n}",
    "whitespace": "  \t many\n\n\n   gaps \r\n between\u00a0these \u3000 words\t\t ",
    "control characters": "a zero\u200bwidth space, a soft\u00adhyphen, a bell\u0007 and a replacement \ufffd mark",
    "special tokens": "The model reads [CLS] first, [SEP] last, and guesses what [MASK] stands for; [PAD] and [UNK] too.",
    "long word": "Donaudampfschifffahrtsgesellschaftskapitänswitwenversicherungspolicennummernverzeichnis" * 2,
    "empty": "",
    "long": LONG_ROUND * 8,
    "long twin": LONG_ROUND * 7 + "Beyond the limit nothing of this other ending may be read.",
}


def main(folder: pathlib.Path) -> None:
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if weights != WEIGHTS_SHA256:
        sys.exit(f"model.safetensors has sha256 {weights}, expected {WEIGHTS_SHA256}")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    limit = model.max_seq_length
    head = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "weights_sha256": weights,
        "generator": "tests/golden/make_minilm.py",
        "versions": {
            "python": platform.python_version(),
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "max_tokens": limit,
    }
    lines = [json.dumps(case(model, limit, name, text), ensure_ascii=True) for name, text in TEXTS.items()]
    opening = json.dumps(head, indent=2)[: -len("\n}")]
    print(opening + ',\n  "cases": [\n' + ",\n".join(lines) + "\n  ]\n}")


def case(model, limit: int, name: str, text: str) -> dict:
    in_full = len(model.tokenizer(text.strip(), truncation=False)["input_ids"])
    read = int(model.tokenize([text])["attention_mask"].sum())
    assert read == min(in_full, limit)
    vector = model.encode([text], normalize_embeddings=True)[0]
    return {
        "name": name,
        "text": text,
        "tokens": read,
        "tokens_in_full": in_full,
        "vector": [round(float(x), 6) for x in vector],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
