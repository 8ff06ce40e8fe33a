"""ragway, running for the time of a check."""

import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

# Long enough to download models and PostgreSQL.
START_S = 600
# What a developer's shell may have set and a check must not see.
DROPPED = (
    "DATABASE_URL", "DATABASE_ADMIN_URL", "DB_HOST", "REDIS_URL", "TRUSTED_PROXIES", "HOST", "PORT",
    "RAGWAY_CONFIG", "RAGWAY_PROMPTS", "RAGWAY_LOG", "OPENAI_API_KEY",
    "RAGWAY_AUTH", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS", "JWT_ISSUER", "JWT_AUDIENCE",
)


def catalog(backends: dict[str, str], model: str | None = None, file: Path = Path("models.toml")) -> str:
    """The built-in models.toml, or another, with questions answered by these: base URLs of OpenAI's protocol by name.

    Their servers know the model by that name too where `model` gives no other.
    """
    names = ", ".join(f'"{name}"' for name in backends)
    text = file.read_text()
    text, count = re.subn(r"(\[routes\.answer\]\nbackends = )\[.*?\]", rf"\1[{names}]", text, flags=re.S)
    assert count == 1, "models.toml has no [routes.answer]"
    for name, url in backends.items():
        text += f'\n[[llm]]\nname = "{name}"\nkind = "openai"\nbase_url = "{url}"\n'
        text += f'model = "{model or name}"\ncontext_tokens = 4096\n'
    return text


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's, for a ragway with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    return kept | {"RAGWAY_HOME": str(home.absolute()), "NO_PROXY": "127.0.0.1"} | more


@contextmanager
def running(binary: Path, config: Path, log: Path, variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server on a free port of loopback, and its address; it is stopped at the end."""
    with log.open("w") as output:
        command = [str(binary), "--config", str(config), "serve", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
        try:
            yield process, address(process, log)
        finally:
            process.terminate()
            process.wait(60)


def address(process: subprocess.Popen, log: Path) -> str:
    for _ in range(START_S * 2):
        found = re.search(r"explore the API\s+(http://127\.0\.0\.1:\d+)/", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"ragway did not start:\n{log.read_text()[-3000:]}")
