"""Tars and Parquet files on S3, with moto's server in its place."""

from collections.abc import Iterator

import numpy as np
import pytest
import s3fs
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from remote_files import FILES, NAMES, write_files

from vqtrt.data.images.open import open_images
from vqtrt.data.remote import open_remote
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.errors import VqtrtError


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that s3fs finds as it finds any other: by the variables of AWS."""
    monkeypatch.setattr("werkzeug.serving.WSGIRequestHandler.log", lambda *_, **__: None)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    open_remote.cache_clear()
    # Servers of one process share their buckets, and s3fs keeps what it was opened with.
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://data{port}/set"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_files_in_a_bucket_are_those_of_the_folder(s3, tmp_path):
    folder = write_files(tmp_path / "files")
    bucket = s3.split("/")[2]
    system = s3fs.S3FileSystem()
    system.mkdir(bucket)
    for name in FILES:
        system.pipe_file(f"{s3}/{name}", (folder / name).read_bytes())
    for name in FILES:
        far, near = open_images(f"{s3}/{name}"), open_images(folder / name)
        for one, other in zip(far.items(), near.items(), strict=True):
            assert (one.name, one.label) == (other.name, other.label)
            np.testing.assert_array_equal(far.read(one), near.read(other))
    urls = [f"{s3}/{name}" for name in FILES]
    assert expanded_paths([s3]) == urls
    assert expanded_paths([f"{s3}/*.tar"]) == [urls[0], urls[2]]
    assert expanded_paths([f"{s3}/p???.tar"]) == [urls[2]]
    source = open_each([urls[2], str(folder / "pics.tar")], open_images)
    assert [item.name for item in source.items()] == [
        *(f"{bucket}/set/{name}" for name in NAMES),
        *(f"{str(folder).lstrip('/')}/{name}" for name in NAMES),
    ]
    with pytest.raises(VqtrtError, match=r"none\.tar: no such file; check the URL"):
        open_images(f"{s3}/none.tar")
    with pytest.raises(VqtrtError, match=r"other: no such file; check the URL"):
        expanded_paths([f"s3://{bucket}/other"])
