"""Embeds the same texts through every client and compares the vectors with ragway's own.

    python check.py http://127.0.0.1:8080

Ends with an error at the first client that does not work as with its own server.
"""

import json
import sys
import urllib.request

import numpy as np
import openai
import tiktoken
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from langchain_openai import OpenAIEmbeddings

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NAME = "all-MiniLM-L6-v2"
TEXTS = [
    "When does the first ferry leave?",
    "A bicycle costs 3 euros each way.",
    "Hunde dürfen auf das Autodeck, 犬も。",
]
TOLERANCE = 1e-6


def main(url: str) -> None:
    own = np.array(post(f"{url}/api/v1/embed", {"texts": TEXTS})["embeddings"], dtype=np.float32)
    assert own.shape == (3, 384), own.shape
    check_openai(url, own)
    check_langchain(url, own)
    check_huggingface(url, own)
    check_infinity(url, own)


def check_openai(url: str, own: np.ndarray) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

    # The client asks for base64 and decodes it unless told otherwise.
    default = client.embeddings.create(input=TEXTS, model=MODEL)
    same("openai, base64", [item.embedding for item in default.data], own)
    floats = client.embeddings.create(input=TEXTS, model=NAME, encoding_format="float", dimensions=384)
    same("openai, float", [item.embedding for item in floats.data], own)
    one = client.embeddings.create(input=TEXTS[0], model="text-embedding", user="someone")
    same("openai, one text by model type", [one.data[0].embedding], own[:1])
    assert default.model == NAME and default.usage.prompt_tokens == default.usage.total_tokens > 30
    tokens = post(f"{url}/tokenize", {"inputs": TEXTS})
    assert default.usage.prompt_tokens == sum(map(len, tokens)), default.usage
    many = client.embeddings.create(input=["ferry"] * 2048, model=NAME)
    assert [item.index for item in many.data] == list(range(2048))
    done("openai, 2048 texts in one request")

    assert NAME in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == NAME
    done("openai, models.list and models.retrieve")

    error = refused(openai.NotFoundError, lambda: client.embeddings.create(input="a", model="gpt"))
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("gpt"))
    assert error.code == "model_not_found", error.code
    for wrong in ({"input": ""}, {"input": []}, {"input": ["a"] * 2049}, {"input": [1, 2]}):
        error = refused(openai.BadRequestError, lambda: client.embeddings.create(model=NAME, **wrong))
        assert (error.code, error.param) == ("invalid_request", "input"), error
    short = lambda: client.embeddings.create(input="a", model=NAME, dimensions=128)
    assert refused(openai.BadRequestError, short).param == "dimensions"
    done("openai, NotFoundError and BadRequestError with code, param and type")


def check_langchain(url: str, own: np.ndarray) -> None:
    settings = {"model": MODEL, "base_url": f"{url}/v1", "api_key": "none"}
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **settings)
    same("langchain-openai, documents", embeddings.embed_documents(TEXTS), own)
    same("langchain-openai, query", [embeddings.embed_query(TEXTS[0])], own[:1])

    # By default it sends token ids. Its tokenizer is a download; one of bytes does for the refusal.
    tokenizer = tiktoken.Encoding(
        "bytes",
        pat_str=r"\s*\S+|\s+",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    tiktoken.get_encoding = lambda name: tokenizer
    error = refused(openai.BadRequestError, lambda: OpenAIEmbeddings(**settings).embed_documents(TEXTS))
    assert "check_embedding_ctx_length=False" in error.message, error.message
    done("langchain-openai, token ids are refused with the setting to change")


def check_huggingface(url: str, own: np.ndarray) -> None:
    for address in (f"{url}/embed", url):
        client = InferenceClient(base_url=address)
        same(f"huggingface_hub, {address.removeprefix(url) or 'bare URL'}", client.feature_extraction(TEXTS), own)
        one = client.feature_extraction(
            TEXTS[1], normalize=True, truncate=True, truncation_direction="left", prompt_name="passage"
        )
        same("huggingface_hub, one text with every option", one, own[1:2])
    long = "ferry " * 400
    error = refused(HfHubHTTPError, lambda: InferenceClient(model=f"{url}/embed").feature_extraction(long))
    assert error.response.status_code == 422, error
    assert error.response.json()["error_type"] == "Validation" and "256 tokens" in error.response.json()["error"]
    cut = InferenceClient(model=f"{url}/embed").feature_extraction(long, truncate=True)
    assert cut.shape == (1, 384), cut.shape
    done("huggingface_hub, a text that is too long is refused or cut")

    for address in (f"{url}/similarity", url):
        scores = InferenceClient(model=address).sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
        same(f"huggingface_hub, similarity at {address.removeprefix(url) or 'bare URL'}", [scores], [own[1:] @ own[0]])


def check_infinity(url: str, own: np.ndarray) -> None:
    # Infinity's path without /v1, through the client that most people use with it.
    client = openai.OpenAI(base_url=url, api_key="none")
    made = client.embeddings.create(input=TEXTS, model="default/not-specified", extra_body={"modality": "text"})
    same("infinity, modality text", [item.embedding for item in made.data], own)
    assert NAME in [model.id for model in client.models.list()]
    audio = lambda: client.embeddings.create(
        input="data:audio/wav;base64,AAAA", model=NAME, extra_body={"modality": "audio"}
    )
    assert refused(openai.BadRequestError, audio).param == "modality"
    done("infinity, models.list, audio refused")


def post(url: str, body: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def refused(kind: type[Exception], call) -> Exception:
    """The exception of this kind that the call must raise."""
    try:
        result = call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, not {result!r:.200}")


def same(what: str, vectors: object, wanted: object) -> None:
    vectors, wanted = np.asarray(vectors, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert vectors.shape == wanted.shape, (what, vectors.shape, wanted.shape)
    difference = float(np.abs(vectors - wanted).max())
    assert difference < TOLERANCE, (what, difference)
    done(f"{what}: differs by {difference:.1e} at most")


def done(what: str) -> None:
    print(f"ok  {what}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
