"""Holds conversations through OpenAI's and LangChain's clients.

    python chat.py http://127.0.0.1:8080

`remote` must be the backend of upstream.py. Ends with an error at the first client that does not work as with
OpenAI's own server.
"""

import asyncio
import sys

import openai
from langchain_openai import ChatOpenAI

from check import done, post, refused

QUESTION = "What does it cost to take a bicycle?"
ANSWER = "A bicycle costs 3 euros each way. [1]"
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": "And each way?"},
]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def main(url: str) -> None:
    document = {"content": "# Fares\n\nA bicycle costs 3 euros each way.", "source": "https://ferry.example/fares"}
    post(f"{url}/api/v1/documents", {"documents": [document]})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    check_documents(client)
    check_backend(client)
    check_errors(client)
    asyncio.run(check_async(url))
    check_langchain(url)


def check_documents(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="ragway", messages=CONVERSATION, seed=1, temperature=0)
    message = whole.choices[0].message
    assert message.content == ANSWER and whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens >= 100, whole.usage
    citation = message.annotations[0].url_citation
    assert (citation.url, citation.title) == ("https://ferry.example/fares", "Fares"), citation
    assert message.content[citation.start_index : citation.end_index] == "A bicycle costs 3 euros each way."
    assert whole.ragway["model"] == "remote" and whole.ragway["retrieval"]["rewritten_by"] in ("model", "rule")
    done("openai, an answer from documents with url_citation annotations")

    chunks = list(
        client.chat.completions.create(
            model="ragway", messages=CONVERSATION, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    streamed = [annotation for delta in deltas for annotation in getattr(delta, "annotations", None) or []]
    assert streamed == [annotation.model_dump() for annotation in message.annotations], streamed
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    with client.chat.completions.stream(model="ragway", messages=CONVERSATION) as stream:
        assert stream.get_final_completion().choices[0].message.content == message.content
    done("openai, the stream says the same, with the usage")

    nothing = client.chat.completions.create(
        model="ragway/default", messages=[{"role": "user", "content": "Who painted the Sistine Chapel's ceiling?"}]
    )
    assert not nothing.choices[0].message.annotations and nothing.ragway["retrieval"]["answered"] is False
    assert {"ragway", "ragway/default", "remote"} <= {model.id for model in client.models.list()}
    done("openai, abstention, models.list")


def check_backend(client: openai.OpenAI) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model="remote", messages=hello)
    assert whole.choices[0].message.content == "upstream-model was asked", whole
    assert whole.ragway["model"] == "remote"
    called = client.chat.completions.create(model="remote", messages=hello, tools=[TOOL], tool_choice="auto")
    assert called.choices[0].message.tool_calls[0].function.name == "look", called
    with client.chat.completions.stream(model="remote", messages=hello, tools=[TOOL]) as stream:
        final = stream.get_final_completion().choices[0]
    assert (final.finish_reason, final.message.tool_calls[0].function.name) == ("tool_calls", "look"), final
    chunks = list(client.chat.completions.create(model="remote", messages=hello, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"], chunks
    done("openai, a backend's answer, tools and stream pass through")


def check_errors(client: openai.OpenAI) -> None:
    def asking(**change: object):
        request = {"model": "ragway", "messages": [{"role": "user", "content": QUESTION}], **change}
        return lambda: client.chat.completions.create(**request)

    error = refused(openai.NotFoundError, asking(model="gpt-9"))
    assert (error.code, error.param) == ("model_not_found", "model"), error
    refused(openai.NotFoundError, asking(model="ragway/none"))
    for param, value in {"n": 2, "tools": [TOOL], "logprobs": True, "messages": []}.items():
        assert refused(openai.BadRequestError, asking(**{param: value})).param == param
    long = [{"role": "user", "content": "x" * 200_000}]
    assert "200000 bytes" in refused(openai.BadRequestError, asking(messages=long)).message
    refusal = [{"role": "user", "content": "refuse"}]
    error = refused(openai.BadRequestError, asking(model="remote", messages=refusal))
    assert error.code == "7" and "refused by the upstream" in error.message, error
    done("openai, NotFoundError and BadRequestError, also in the upstream's words")


async def check_async(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asked = [client.chat.completions.create(model="ragway", messages=CONVERSATION) for _ in range(4)]
        for answer in await asyncio.gather(*asked):
            assert answer.choices[0].message.content == ANSWER
        text = ""
        async for chunk in await client.chat.completions.create(model="ragway", messages=CONVERSATION, stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text == ANSWER, text
    done("openai, async")


def check_langchain(url: str) -> None:
    chat = ChatOpenAI(model="ragway", base_url=f"{url}/v1", api_key="none", stream_usage=True)
    answer = chat.invoke([("system", "Be brief."), ("human", QUESTION)])
    assert answer.content == ANSWER and answer.usage_metadata["total_tokens"] == 100, answer
    streamed = None
    for chunk in chat.stream([("human", QUESTION)]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == ANSWER and streamed.usage_metadata["total_tokens"] == 100, streamed
    tools = ChatOpenAI(model="remote", base_url=f"{url}/v1", api_key="none").bind_tools([TOOL])
    assert tools.invoke("Hello").tool_calls[0]["name"] == "look"
    done("langchain-openai, ChatOpenAI: invoke, stream, tools")


if __name__ == "__main__":
    main(sys.argv[1])
