"""`dcclip mcp`: the SDK's own client asks a server in a process of its own."""

import base64
import io
import sys

import pytest
from PIL import Image

from tests.tiny import ROOT

mcp = pytest.importorskip("mcp", reason='pip install -e ".[mcp]"')
anyio = pytest.importorskip("anyio")
pytestmark = pytest.mark.slow


def test_an_assistant_searches_and_labels_photographs_of_the_index_alone(filled, photos, tmp_path):
    (tmp_path / "private.png").write_bytes((photos / "white.png").read_bytes())
    index = str(filled.folder)
    arguments = ["-m", "modeling_dcclip.search.command", "mcp", "--index", index]
    server = mcp.StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
    red = str(photos / "red.jpg")

    async def converse():
        async with mcp.Client(server) as client:
            listed = await client.list_tools()
            assert {tool.name for tool in listed.tools} == {
                "search_photos",
                "similar_photos",
                "label_photo",
                "index_status",
            }
            assert all(tool.annotations.read_only_hint for tool in listed.tools)
            found = await client.call_tool("search_photos", {"query": "红", "number": 2})
            first, second = found.structured_content["photos"]
            assert first["path"] == red
            assert first["score"] > second["score"]
            preview = Image.open(io.BytesIO(base64.b64decode(found.content[1].data)))
            assert preview.getpixel((5, 5))[0] > 200
            limited = await client.call_tool(
                "search_photos", {"query": "red", "path": "green", "previews": False}
            )
            assert [each["path"] for each in limited.structured_content["photos"]] == [
                str(photos / "green.png")
            ]
            similar = await client.call_tool("similar_photos", {"path": red, "number": 1})
            assert similar.structured_content["photos"][0]["path"] != red
            labels = {"path": red, "labels": ["绿", "red"]}
            scores = (await client.call_tool("label_photo", labels)).structured_content
            assert scores["red"] > 0.9
            status = await client.call_tool("index_status", {})
            assert status.structured_content["files"] == 5
            for tool, more in (("label_photo", {"labels": ["a"]}), ("similar_photos", {})):
                outside = {"path": str(tmp_path / "private.png")} | more
                refused = await client.call_tool(tool, outside)
                assert refused.is_error
                assert "the index has no photograph" in refused.content[0].text
            refused = await client.call_tool("search_photos", {"after": "yesterday?"})
            assert "after" in refused.content[0].text

    anyio.run(converse)
