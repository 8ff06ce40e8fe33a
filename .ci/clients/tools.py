"""Searches and asks through the official client of the Model Context Protocol.

    python tools.py http://127.0.0.1:8080

The documents and the backend are those of chat.py, which runs before. Ends with an error at the first thing that does
not work. The client checks each result against the schema that the tool promises.
"""

import asyncio
import json
import sys

from mcp import Client, MCPError

from chat import ANSWER, QUESTION
from check import done, post


def main(url: str) -> None:
    for mode in ("auto", "legacy"):
        asyncio.run(check(url, mode))


async def check(url: str, mode: str) -> None:
    async with Client(f"{url}/mcp", mode=mode) as client:
        version = client.protocol_version
        assert client.server_info.name == "ragway" and "data" in client.instructions, client.server_info
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"ask", "search", "list_collections"}, tools
        assert all(tool.annotations.read_only_hint and tool.output_schema for tool in tools.values())
        done(f"mcp {version}, tools with schemas and annotations")

        asked = await client.call_tool("ask", {"question": QUESTION})
        text, answer = asked.content[0].text, asked.structured_content
        assert not asked.is_error and answer["answer"] == ANSWER and text.startswith(ANSWER), asked
        assert "[1] Fares (" in text and "“A bicycle costs 3 euros each way.”" in text, text
        nothing = await client.call_tool("ask", {"question": "Who painted the Sistine Chapel's ceiling?"})
        assert nothing.structured_content["answered"] is False, nothing
        done(f"mcp {version}, ask")

        arguments = {"query": "bicycle", "k": 1, "filters": {}, "collection": "default"}
        found = (await client.call_tool("search", arguments)).structured_content
        own = post(f"{url}/api/v1/search", arguments)
        assert found["results"] == own["results"] and found["count"] == 1, (found, own)
        listed = (await client.call_tool("list_collections")).structured_content
        assert "default" in [collection["name"] for collection in listed["collections"]], listed
        many = await asyncio.gather(*(client.call_tool("search", {"query": QUESTION, "k": k}) for k in range(1, 9)))
        assert [result.is_error for result in many] == [False] * 8, many
        done(f"mcp {version}, search, list_collections, eight calls at once")

        refused = await client.call_tool("search", {"query": "bicycle", "k": 0})
        assert refused.is_error and "k: must be at least 1, is 0" in refused.content[0].text, refused
        try:
            result = await client.call_tool("delete", {})
            raise AssertionError(f"an error was expected, not {json.dumps(result.model_dump(), default=str):.200}")
        except MCPError as error:
            assert error.code == -32602 and "Unknown tool: delete" in str(error), error
        done(f"mcp {version}, errors of tools and of the protocol")


if __name__ == "__main__":
    main(sys.argv[1])
