"""What large files take of a server's memory: text, PDF, docx, a task, and a file that is refused.

    python3 benches/large_files.py [PROGRAM] [--mb 50] [--cases text,task,docx,pdf,refused]

Starts PROGRAM (`target/release/ragway`) for each case, with a larger `max_body_bytes` and a stand-in for the
model that answers at once, makes a file and stores it. Prints the resident memory before and at its most, of the
server and of the process that reads the file, from /proc. Linux only.
"""

import argparse
import http.client
import io
import json
import random
import re
import select
import socket
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))
import gateway  # noqa: E402

DIMENSION = 384
REFUSED_MB = 500
CHANCE = random.Random(11)
WORDS = ["".join(CHANCE.choices("aeionrstl", k=CHANCE.randint(2, 9))) for _ in range(5000)]
VECTORS = [json.dumps([round(CHANCE.uniform(-1, 1), 4) for _ in range(DIMENSION)]) for _ in range(997)]


class Model(BaseHTTPRequestHandler):
    """Answers as text-embeddings-inference does, with one of some vectors for each text."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"]
        answer = ("[" + ",".join(VECTORS[hash(text) % len(VECTORS)] for text in texts) + "]").encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/release/ragway", type=Path)
    parser.add_argument("--mb", type=int, default=50)
    parser.add_argument("--cases", default="text,task,docx,pdf,refused")
    options = parser.parse_args()
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # As root PostgreSQL runs as another user, who must be able to reach its files.
        place.chmod(0o755)
        config = place / "models.toml"
        config.write_text(catalog(model.server_address[1], options.mb))
        for case in options.cases.split(","):
            with server(options.program.resolve(), config, place) as (process, address):
                CASES[case](process, address, options.mb << 20)


def catalog(port, mb):
    text = (ROOT / "models.toml").read_text()
    # In JSON a file is a little longer.
    for key, value in [("max_body_bytes", (mb + 8) << 20), ("request_timeout_ms", 1_800_000)]:
        text, count = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text, count=1)
        assert count == 1, key
    text, count = re.subn(r"(\[routes\.embed\.text-embedding\]\ncandidates = )\[.*?\]", r'\1["stand-in"]', text, flags=re.S)
    assert count == 1
    return text + (
        f'\n[[embedder]]\nname = "stand-in"\nkind = "remote"\ndimension = {DIMENSION}\nmax_tokens = 256\n'
        "min_similarity = 0.3\nanswer_cut = 0.5\n"
        f'[embedder.remote]\napi = "tei"\nbase_url = "http://127.0.0.1:{port}"\n'
    )


@contextmanager
def server(program, config, place):
    variables = gateway.environment(place / "home", RAGWAY_LOG="warn")
    with gateway.running(program, config, place / "log", variables) as running:
        yield running


def text(size):
    paragraphs, length = [], 0
    while length < size:
        words = CHANCE.choices(WORDS, k=80)
        paragraph = " ".join(words[:40]).capitalize() + ". " + " ".join(words[40:]).capitalize() + "."
        paragraphs.append(paragraph)
        length += len(paragraph) + 2
    return "\n\n".join(paragraphs)[:size]


def docx(size):
    """A fifth of it is the text as it is packed, the rest a picture that cannot be packed."""
    body = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in text(size // 2).split("\n\n"))
    document = f'<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>'
    kinds = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", kinds)
        archive.writestr("word/document.xml", document)
        left = size - file.tell() - 1000
        archive.writestr("word/media/picture.png", CHANCE.randbytes(max(left, 0)), zipfile.ZIP_STORED)
    return file.getvalue()


def pdf(size):
    """Pages of text that is not packed."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    pages, paragraphs = [], text(size).split("\n\n")
    length = 0
    for first in range(0, len(paragraphs), 6):
        lines = "".join(f"({line}) Tj T*\n" for paragraph in paragraphs[first:first + 6] for line in re.findall(r".{1,90}(?: |$)", paragraph))
        content = f"BT /F1 9 Tf 11 TL 40 800 Td\n{lines}ET"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        pages.append(len(objects) + 1)
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> /Contents {len(objects)} 0 R >>")
        length += len(content) + 250
        if length >= size:
            break
    objects[1] = f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{page} 0 R' for page in pages)}] >>"
    file, places = io.BytesIO(b"%PDF-1.4\n"), []
    file.seek(0, io.SEEK_END)
    for number, thing in enumerate(objects, 1):
        places.append(file.tell())
        file.write(f"{number} 0 obj\n{thing}\nendobj\n".encode())
    start = file.tell()
    file.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    file.write("".join(f"{place:010} 00000 n \n" for place in places).encode())
    file.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode())
    return file.getvalue()


class Watch:
    """The most memory that a server and the processes that read for it have had."""

    def __init__(self, process):
        self.process, self.readers, self.ended = process.pid, 0, threading.Event()
        Path(f"/proc/{self.process}/clear_refs").write_text("5")
        self.rest = status(self.process, "VmRSS")
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while not self.ended.wait(0.02):
            for task in Path(f"/proc/{self.process}/task").iterdir():
                try:
                    for child in (task / "children").read_text().split():
                        if b"extract-worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                            self.readers = max(self.readers, status(child, "VmHWM"))
                except OSError:
                    pass

    def tell(self, name, size, what):
        self.ended.set()
        most = status(self.process, "VmHWM")
        ratio = f", {(most - self.rest) / (size / 1e6):.1f} × the file more" if size else ""
        print(f"{name}: {size / 1e6:.0f} MB; server {self.rest:.0f} MB at rest, {most:.0f} MB at most{ratio}; reader {self.readers:.0f} MB; {what}", flush=True)


def status(process, line):
    """Megabytes."""
    return int(re.search(rf"{line}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) * 1024 / 1e6


def post(address, path, body, content_type):
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=1800)) as client:
        client.request("POST", path, body, {"content-type": content_type})
        response = client.getresponse()
        return response.status, json.loads(response.read())


def get(address, path):
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as client:
        client.request("GET", path)
        return json.loads(client.getresponse().read())


def file_of(name, make):
    def case(process, address, size):
        data = make(size)
        head = f'--x\r\ncontent-disposition: form-data; name="file"; filename="large.{name}"\r\n\r\n'.encode()
        body = head + data + b"\r\n--x--\r\n"
        watch, started = Watch(process), time.monotonic()
        code, answer = post(address, "/api/v1/documents", body, "multipart/form-data; boundary=x")
        what = f"{answer['documents'][0]['passages']} passages" if code == 201 else answer.get("detail")
        watch.tell(name, len(data), f"{code}, {what}, {time.monotonic() - started:.0f} s")
    return case


def task(process, address, size):
    body = json.dumps({"documents": [{"content": "As a task.\n\n" + text(size)}]}).encode()
    watch, started = Watch(process), time.monotonic()
    code, answer = post(address, "/api/v1/documents/async", body, "application/json")
    assert code == 202, answer
    del body
    while (state := get(address, f"/api/v1/tasks/{answer['task_id']}"))["status"] == "processing":
        time.sleep(0.2)
    result = state["result"]["documents"][0]["passages"] if state["status"] == "succeeded" else state
    watch.tell("task", size, f"{state['status']}, {result} passages, {time.monotonic() - started:.0f} s")


def refused(process, address, _):
    size = REFUSED_MB * 1_000_000
    head = "POST /api/v1/documents HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    for name, length in [("refused, length told", f"content-length: {size}\r\n\r\n"), ("refused, length not told", "transfer-encoding: chunked\r\n\r\n")]:
        watch, sent = Watch(process), 0
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 60) as client:
            client.sendall((head + length).encode())
            if "chunked" in length:
                client.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
                try:
                    while sent < size and not select.select([client], [], [], 0)[0]:
                        client.sendall(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
                        sent += 0x10000
                except OSError:
                    pass
            try:
                answer = client.recv(65536).decode()
            except OSError:
                answer = "(the connection was reset before the answer could be read)"
        watch.tell(name, size, f"{sent / 1e6:.0f} MB sent; {answer.splitlines()[0]}")


CASES = {"text": file_of("txt", lambda size: text(size).encode()), "task": task, "docx": file_of("docx", docx), "pdf": file_of("pdf", pdf), "refused": refused}

if __name__ == "__main__":
    main()
