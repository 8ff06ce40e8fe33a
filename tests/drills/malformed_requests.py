"""Generated requests, malformed ones among them, from the served OpenAPI document: no 5xx.

Needs schemathesis (`pip install schemathesis`) on the PATH, or where SCHEMATHESIS says. What it found is
in report.txt in the drill's folder as well.
"""

import os
import re
import subprocess

from drill import deployment, expect, prepare

FOR_S = 90


def main() -> None:
    with deployment(gateways=1) as served:
        url = served.urls[0]
        prepare(url)
        report = served.place / "report.txt"
        # The whole list of findings goes to the report, and no request may hold up the drill.
        command = [
            os.environ.get("SCHEMATHESIS", "schemathesis"), "run", f"{url}/openapi.json", "--url", url, "--checks", "not_a_server_error",
            "--max-time", str(FOR_S), "--request-timeout", "35", "--continue-on-failure", "--seed", "1", "--phases", "fuzzing",
        ]
        with report.open("w") as output:
            ran = subprocess.run(command, stdout=output, stderr=output, timeout=FOR_S * 2)
        text = report.read_text()
        print(text[-2500:])
        generated = re.search(r"(\d[\d,]*) generated", text)
        expect(bool(generated), "schemathesis generated nothing; see above")
        expect(ran.returncode == 0, "schemathesis found 5xx; see above")


main()
