"""Makes the pictures of docs/tensorboard.md: a small run, TensorBoard on it, and a headless Chromium that looks at it.

    apt-get install --no-install-recommends chromium
    python scripts/screenshots.py                  # 4 min on 2 CPU cores; --run DIR takes a finished run instead

Nothing is fetched: the data is embedded, and TensorBoard brings its own fonts. The browser is driven by its DevTools
protocol over two pipes, so no driver and no other package is needed.
"""

import argparse
import base64
import fcntl
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from PIL import Image

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CONFIG = """
dataset: {kind: glyphs, classes: 200}
pretraining:
  model: {trunk: conv, latents: 16}
  training: {epochs: 8, batch_size: 64, learning_rate: 2e-3}
extractors:
  pixels: pixels
  vae: {kind: pretrain, objective: vae}
  guided: {kind: pretrain, objective: {kind: guided_vae, transforms: [rotation, scale, translation], weight: 3.0}}
learners: {prototypical: prototypical, ridge: ridge}
episodes: {settings: [5w1s, 5w5s], queries: 15, count: 500}
seeds: [0, 1, 2]
baseline: vae
"""
DEEP = """
window.deep = (selector, root = document) => [
  ...root.querySelectorAll(selector),
  ...[...root.querySelectorAll('*')].flatMap(one => one.shadowRoot ? deep(selector, one.shadowRoot) : []),
  ...[...root.querySelectorAll('iframe')].flatMap(
    one => one.contentDocument ? deep(selector, one.contentDocument) : []),
];
window.said = () => deep('*').filter(one => !['STYLE', 'SCRIPT', 'NOSCRIPT', 'TEMPLATE'].includes(one.tagName))
  .flatMap(one => [...one.childNodes]).filter(one => one.nodeType === 3)
  .map(one => one.textContent).join(' ');
"""


class Dashboard(NamedTuple):
    """A tab of TensorBoard: its place, what is true in the page once it shows what it should, what to do before that.

    ``first`` is done once, when the page has something to do it to; it gives whether it did it.
    """

    name: str
    place: str
    ready: str
    first: str = "true"
    size: tuple[int, int] = (1280, 900)


CLOSE = "deep('[aria-label=\"Close side pane\"]').map(one => one.click()).length > 0"
DASHBOARDS = (
    Dashboard(
        "time-series", f"?forceSVG=true&tagFilter={quote('^(train|test|val)/')}#timeseries",  # curves that can be found
        "deep('line-chart .series-view path').length > 1", CLOSE,
    ),
    Dashboard("scalars", f"#scalars&tagFilter={quote('train|val')}", "deep('tf-scalar-card').length > 1"),
    Dashboard(
        "images", f"#images&tagFilter={quote('reconstruction|traversal/[rst]')}&regexInput={quote('guided/seed0')}",
        "deep('img').filter(one => one.naturalWidth > 0).length > 1",
    ),
    Dashboard("hparams", "#hparams", "said().includes('accuracy_5w1s')", size=(1700, 600)),
    Dashboard("projector", "#projector", "said().includes('Total variance described')"),
    Dashboard("text", "#text", "deep('table').length > 0", size=(2000, 760)),
)


class Browser:
    """A headless Chromium with one page, told what to do over pipes."""

    def __init__(self, program: str, folder: str):
        to_it, ours_in = _pipe()
        ours_out, from_it = _pipe()

        def wire() -> None:  # it reads from 3 and writes to 4
            os.dup2(to_it, 3)
            os.dup2(from_it, 4)

        words = [
            program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "about:blank",
        ]  # fmt: skip
        words += ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
        self._process = subprocess.Popen(
            words, preexec_fn=wire, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        self._in, self._out, self._rest, self._last = ours_in, ours_out, b"", 0
        self._session = ""
        page = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=DEEP)

    def ask(self, method: str, seconds: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """What a command gives. Raises RuntimeError with the browser's words, or when it says nothing."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._out], [], [], left)[0]:
                raise RuntimeError(f"the browser does not answer to {method}")
            if not (more := os.read(self._out, 1 << 20)):
                raise RuntimeError(f"the browser ended at {method}")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; RuntimeError for one that throws."""
        given = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in given:
            raise RuntimeError(f"{expression}: {given['exceptionDetails'].get('exception', {}).get('description')}")
        return given["result"].get("value")

    def open(self, address: str, width: int, height: int) -> None:
        """Go to a page in a window of that size."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url="about:blank")  # else another place of the same page is no new page
        self.ask("Page.navigate", url=address)

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true. Raises RuntimeError with what the page says instead."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!(window.deep && ({expression}))"):
            if time.monotonic() > deadline:
                text = " ".join(str(self.evaluate("said()")).split())[:500]
                raise RuntimeError(f"after {seconds:.0f} s not true in the page: {expression}; it says: {text}")
            time.sleep(0.2)

    def picture(self) -> bytes:
        """The page as png."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above the numbers that the browser's own have."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def find_browser() -> str | None:
    """A Chromium of this machine, None where there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def browsing(program: str) -> Iterator[Browser]:
    """A browser with a profile of its own, which both go away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tensorboard(folder: Path, seconds: float = 120.0) -> Iterator[str]:
    """TensorBoard on a free local port; gives its address. Raises RuntimeError when it does not start."""
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", folder.name, "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(  # in the folder, as pages show the path
        words, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield _address(server, seconds)
    finally:
        server.terminate()
        server.wait()


def _address(server: "subprocess.Popen[str]", seconds: float) -> str:
    deadline, said = time.monotonic() + seconds, ""
    assert server.stdout is not None
    while time.monotonic() < deadline and (line := server.stdout.readline()):
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return found[0]
    raise RuntimeError(f"TensorBoard did not start: {said.strip()}")


def small(png: bytes, colours: int = 128) -> bytes:
    """The same picture in a palette of so many colours: a fraction of the bytes."""
    with Image.open(io.BytesIO(png)) as picture:
        stream = io.BytesIO()
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def make_run(folder: Path) -> Path:
    """A small benchmark on embedded data; gives its run directory."""
    config, run = folder / "screenshots.yaml", folder / "run"
    config.write_text(CONFIG)
    words = [sys.executable, "-m", "metalearn", "bench", str(config), "--out", str(run), "--data-root", str(folder)]
    cache = {"METALEARN_CACHE": str(folder / "cache")}  # so that encoders are trained, and curves are there to be seen
    subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, **cache}, stdout=subprocess.DEVNULL)
    return run


def take(browser: Browser, address: str, dashboard: Dashboard, settle: float = 2.0) -> bytes:
    """A picture of a dashboard once it shows what it should."""
    browser.open(address + dashboard.place, *dashboard.size)
    browser.wait(dashboard.first)
    browser.wait(dashboard.ready)
    time.sleep(settle)  # lines and points move to their places
    return browser.picture()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a picture of each dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run of `metalearn bench`; default: a small one is made")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", choices=[one.name for one in DASHBOARDS], help="one dashboard")
    given = parser.parse_args(arguments)
    program = find_browser()
    if program is None:
        print(
            f"error: none of {', '.join(BROWSERS)} is on PATH; install one, on Debian by "
            "`apt-get install --no-install-recommends chromium`", file=sys.stderr,
        )  # fmt: skip
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or make_run(Path(folder))
        with tensorboard(run / "tensorboard") as address, browsing(program) as browser:
            for dashboard in DASHBOARDS:
                if given.only in (None, dashboard.name):
                    path = given.out / f"tensorboard-{dashboard.name}.png"
                    path.write_bytes(small(take(browser, address, dashboard)))
                    print(f"{path}: {path.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
