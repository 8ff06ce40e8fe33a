"""Records what transformers' cross-encoders give for pairs of texts.

    pip install transformers torch tokenizers==0.23.1 sentencepiece protobuf
    python make_reranker.py > reranker.json

from `tests/golden`. The checkpoints are small and of the architecture of published rerankers:
`bert` as ms-marco-MiniLM-L6-v2 (two token types, pooler, one label), `xlm-roberta` as
bge-reranker-base (positions after the padding's, a head of two layers). Both read with the
tokenizer of `multilingual/`, whose tokens have type 0 only, as XLM-RoBERTa's; for `bert` the
second text's tokens get type 1 by a template of its own, which `tests/rerank.rs` writes too.

Weights are not kept: `weight` of `make_multilingual.py` computes each from its tensor's name.
"""

import json
import sys

import tokenizers
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

from make_multilingual import weight

MAX_TOKENS = 48
QUERY = "When does the last ferry leave the island?"
TEXTS = [
    "The last ferry leaves the island at ten in the evening.",
    "A bicycle costs three euros and children travel free.",
    "Die letzte Fähre verlässt die Insel um zehn Uhr am Abend.",
    "末班渡轮晚上十点离开小岛。",
    "?",
    "The ferry leaves and leaves. " * 20,
]
LONG_QUERY = "When does it leave? How much is it? " * 12
BERT_TEMPLATE = {"single": "<s> $A </s>", "pair": "<s>:0 $A:0 </s>:0 $B:1 </s>:1"}


def main():
    tokenizer = tokenizers.Tokenizer.from_file("multilingual/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS, strategy="longest_first")
    rows = tokenizer.get_vocab_size() + 5
    shared = dict(
        vocab_size=rows, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        layer_norm_eps=1e-12, num_labels=1,
    )
    bert = BertConfig(max_position_embeddings=MAX_TOKENS, type_vocab_size=2, pad_token_id=0, **shared)
    roberta = XLMRobertaConfig(max_position_embeddings=MAX_TOKENS + 2, type_vocab_size=1, pad_token_id=1, **shared)
    made = [
        golden("xlm-roberta", roberta, XLMRobertaForSequenceClassification, tokenizer),
        golden("bert", bert, BertForSequenceClassification, typed(tokenizer)),
    ]
    versions = {module.__name__: module.__version__ for module in (transformers, torch, tokenizers)}
    json.dump({"versions": versions, "query": QUERY, "long_query": LONG_QUERY, "texts": TEXTS,
               "max_tokens": MAX_TOKENS, "template": BERT_TEMPLATE, "checkpoints": made}, sys.stdout,
              ensure_ascii=False, indent=1)
    print()


def typed(tokenizer):
    special = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(special_tokens=special, **BERT_TEMPLATE)
    return tokenizer


def golden(name, config, kind, tokenizer):
    model = kind(config).eval()
    state = model.state_dict()
    for tensor in state:
        if state[tensor].dtype == torch.float32:
            state[tensor] = weight(tensor, state[tensor].shape)
    model.load_state_dict(state)
    tensors = {tensor: list(value.shape) for tensor, value in state.items() if value.dtype == torch.float32}
    pairs = [(QUERY, text) for text in TEXTS] + [(LONG_QUERY, text) for text in TEXTS]
    return {"name": name, "config": config.to_diff_dict(), "tensors": tensors,
            "pairs": [scored(model, tokenizer.encode(*pair)) for pair in pairs]}


@torch.no_grad()
def scored(model, encoding):
    given = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    logits = model(**{key: torch.tensor([value]) for key, value in given.items()}).logits
    return {"tokens": len(encoding.ids), "truncated": bool(encoding.overflowing), "logit": logits.item()}


if __name__ == "__main__":
    main()
