"""Generated requests, malformed ones among them, from the served OpenAPI document: no 5xx that it does not name.

A small CLIP model, made up, reads the images.

Needs schemathesis (`pip install schemathesis`) on the PATH, or where SCHEMATHESIS says. What it found is
in report.txt in the drill's folder as well.
"""

import base64
import os
import re
import subprocess

import small_clip
from drill import deployment, expect, good, prepare

FOR_S = 240


def main() -> None:
    images = ('candidates = ["clip-ViT-B-32"]', f'candidates = ["{small_clip.NAME}"]')
    with deployment(gateways=1, settings=(images,), models=small_clip.write) as served:
        url = served.urls[0]
        prepare(url)
        png = base64.b64encode((small_clip.GOLDEN / "clip/small.png").read_bytes()).decode()
        good(url, "/embed/image-embedding", {"images": [png]})
        report = served.place / "report.txt"
        # The whole list of findings goes to the report, and no request may hold up the drill.
        command = [
            os.environ.get("SCHEMATHESIS", "schemathesis"), "run", f"{url}/openapi.json", "--url", url, "--checks", "not_a_server_error",
            "--max-time", str(FOR_S), "--request-timeout", "35", "--continue-on-failure", "--seed", "1", "--phases", "fuzzing",
        ]
        with report.open("w") as output:
            ran = subprocess.run(command, stdout=output, stderr=output, timeout=FOR_S * 2, cwd=served.place)
        text = report.read_text()
        print(text[text.index("= SUMMARY"):])
        expect(re.search(r"\d generated", text) is not None, "schemathesis generated nothing")
        found = server_errors(text)
        print(f"5xx met: {', '.join(map(' '.join, found)) or 'none'}")
        # It ends with 1 where a check failed; with anything else it did not do its work.
        expect(ran.returncode == (1 if found else 0), f"schemathesis ended with {ran.returncode}; see {report}")
        paths = good(url, "/openapi.json")["paths"]
        unnamed = [one for one in found if one[2] not in paths[one[1]][one[0].lower()]["responses"]]
        expect(not unnamed, f"5xx that the document does not name: {unnamed}")


def server_errors(report: str) -> list[tuple[str, str, str]]:
    """Method, path and status of each that the report lists."""
    found, operation = [], ("", "")
    for line in report.splitlines():
        if heading := re.fullmatch(r"_+ ([A-Z]+) (/\S*) _+", line):
            operation = heading.groups()
        elif status := re.match(r"\[(5\d\d)\]", line):
            found.append((*operation, status[1]))
    return found


main()
