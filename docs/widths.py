"""Whether a page of build/site scrolls sideways on a desktop or a phone; needs Chromium.

    make docs && python docs/widths.py [FOLDER]

Chromium opens every page in frames of these widths. With FOLDER, it also gets a picture of each.
"""

import functools
import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SITE = Path(__file__).parents[1] / "build" / "site"
WIDTHS = (1280, 390)
HEIGHT = 1600
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
MEASURE = """<pre id="out"></pre><iframe id="frame" height="900"></iframe><script>
const frame = document.getElementById("frame"), found = []
async function measure() {
  for (const page of PAGES) for (const width of WIDTHS) {
    frame.width = width
    await new Promise(done => { frame.onload = done; frame.src = page })
    await new Promise(done => setTimeout(done, 150))
    const root = frame.contentDocument.documentElement
    const inside = frame.contentWindow.innerWidth
    if (root.scrollWidth > inside) found.push(`${page} at ${width}: ${root.scrollWidth} pixels`)
  }
  document.getElementById("out").textContent = ["done", ...found].join("\\n")
}
measure()
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave out the line of each request."""


def chromium(*options: str) -> str:
    """What Chromium prints, with a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        command = [*CHROMIUM, f"--user-data-dir={profile}", *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Print the pages that are wider than their window; the exit status."""
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    handler = functools.partial(_Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    probe = SITE / "widths.html"
    try:
        measure = MEASURE.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
        probe.write_text(measure)
        text = chromium("--virtual-time-budget=600000", "--dump-dom", f"{here}/{probe.name}")
        result = text.partition('<pre id="out">')[2].partition("</pre>")[0].splitlines()
        print("\n".join(result[1:]) or f"{len(pages)} pages fit at {WIDTHS} pixels")
        for folder in map(Path, sys.argv[1:2]):
            folder.mkdir(parents=True, exist_ok=True)
            for page in pages:
                for width in WIDTHS:
                    # A window is at least 500 pixels wide: a frame may be narrower.
                    probe.write_text(
                        f'<body style="margin:0"><iframe src="{page}" width="{width}" '
                        f'height="{HEIGHT}" style="border:0"></iframe>'
                    )
                    name = f"{page.replace('/', '-').removesuffix('.html')}-{width}.png"
                    chromium(
                        f"--screenshot={folder / name}",
                        f"--window-size={max(width, 500)},{HEIGHT}",
                        f"{here}/{probe.name}",
                    )
    finally:
        probe.unlink(missing_ok=True)
        server.shutdown()
    return result != ["done"]


if __name__ == "__main__":
    sys.exit(main())
