"""A bucket on this machine: a server that speaks S3, and a folder's contents in it."""

from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from components.files.storage import connection

BUCKET = "downloads"


def request(url: str) -> None:
    """POST nothing to a server on this machine."""
    urlopen(Request(url, method="POST")).close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.S3FileSystem]:
    """An empty bucket; `s3://downloads/…` leads to it as long as the test runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    system = fs.S3FileSystem(
        endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True
    )
    system.create_dir(BUCKET)
    connection.cache_clear()
    yield system
    request(f"http://{host}:{port}/moto-api/reset")  # what is in it would outlive the server
    connection.cache_clear()
    server.stop()


def upload(folder: Path, system: fs.S3FileSystem, prefix: str) -> str:
    """Every file below a folder, under a prefix of the bucket; returns its URI."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with system.open_output_stream(
                f"{BUCKET}/{prefix}/{path.relative_to(folder).as_posix()}"
            ) as stream:
                stream.write(path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"
