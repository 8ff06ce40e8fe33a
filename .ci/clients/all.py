"""Runs the checks of the published clients against a ragway of their own.

    python all.py target/debug/ragway target/clients

Its language model is `upstream.py`. Ends with an error at the first client that fails.
"""

import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import gateway
import upstream


def main(binary: Path, place: Path) -> None:
    model = ThreadingHTTPServer(("127.0.0.1", 0), upstream.Handler)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    config = place / "models.toml"
    backends = {"remote": f"http://127.0.0.1:{model.server_port}/v1"}
    config.write_text(gateway.catalog(backends, model="upstream-model"))
    variables = gateway.environment(place / "home")
    with gateway.running(binary, config, place / "ragway.log", variables) as (_, url):
        folder = Path(__file__).parent
        checks = [[sys.executable, folder / name] for name in ("check.py", "chat.py", "tools.py")]
        for check in [*checks, ["node", place / "node" / "chat.mjs"]]:
            subprocess.run([*check, url], env=os.environ | {"NO_PROXY": "127.0.0.1"}, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
