"""`benchmarks/scale_remote.py` on a few pictures; by hand it runs on data sets."""

import sys

import pytest
import scale_remote
from doubles import write_pictures

from vqtrt.data import remote


@pytest.mark.slow
def test_every_server_gives_the_codes_of_the_disk(tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("werkzeug.serving.WSGIRequestHandler.log", lambda *_, **__: None)
    monkeypatch.setattr(remote, "_PAUSE", 0.001)
    monkeypatch.setattr(scale_remote, "LATENCY", 0.001)
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # put back at the end
    pictures = write_pictures(tmp_path / "pics", *(f"{c}/{n}.png" for c in "ab" for n in range(99)))
    options = ["--model", str(tiny_bundle), "--size", "16", "--shard-size", "20"]
    monkeypatch.setattr(
        sys, "argv", ["scale_remote.py", str(pictures), *options, "--block", "8192"]
    )
    monkeypatch.setattr(remote, "BLOCK", remote.BLOCK)  # put back at the end
    with pytest.raises(SystemExit) as ended:
        scale_remote.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, out
    assert out.count("| True |") == 10
    assert err.count("in 5 attempts (ServerDisconnectedError") == 2
