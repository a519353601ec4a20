"""What URLs name, without a network."""

import pytest

from vqtrt.data.urls import is_remote_tar, is_url, path_in_url, public_url, split_column
from vqtrt.errors import VqtrtError


@pytest.mark.parametrize("text", ["s3://b/x.tar", "https://h/x", "gs://b", "hf://datasets/u/n"])
def test_urls(text):
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["a/b", "shapes:3:1", "C://x", "x.npz:a", "/a://b", "cifar:coarse"]
)
def test_paths(text):
    assert not is_url(text)
    assert public_url(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/x.tar?X-Amz-Signature=secret", "https://host/a/x.tar"),
        ("https://me:secret@host:80/x.tar#secret", "https://host:80/x.tar"),
        ("s3://bucket/x?.tar", "s3://bucket/x?.tar"),
        ("hf://datasets/u/n@main/x.parquet", "hf://datasets/u/n@main/x.parquet"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    assert public_url(url) == shown
    assert f"://{path_in_url(url)}" in shown


def test_a_column():
    assert split_column("s3://b/x.parquet:img") == ("s3://b/x.parquet", "img")
    assert split_column("https://h:80/x.parquet") == ("https://h:80/x.parquet", None)
    signed = "https://h/x.parquet?expires=1:2"
    assert split_column(signed) == (signed, None)
    assert is_remote_tar("https://h/x.TAR?a=b.png")
    assert not is_remote_tar("https://h/x.parquet?a=b.tar")


@pytest.mark.parametrize("url", ["https://h/x.png", "s3://b/x.tar.gz", "https://h/x?a=b.tar"])
def test_other_files_are_not_read_over_a_network(url):
    with pytest.raises(VqtrtError, match=r"only \.tar and \.parquet are read over a network"):
        split_column(url)
