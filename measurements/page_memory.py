"""Memory of the page of `clew ui` while people drop huge pictures on it: `python measurements/page_memory.py` (Linux).

Forty pictures of 40 million pixels each are sent, eight at a time, as a browser sends them: to see their preview, and
then to explain them. What the server's process holds is read from /proc. Writes docs/page.md's table.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from report import ROOT, when, write_table

sys.path.insert(0, str(ROOT / "tests"))
SIZE = (8_000, 5_000)
WORDS = {"preview": "previews", "explain": "explanations"}


def pictures() -> dict[str, bytes]:
    """A picture of 40 million pixels for each way to store them, by the name of its file."""
    columns, rows = np.arange(SIZE[0]), np.arange(SIZE[1])[:, None]
    grey = ((columns // 40 + rows // 25) % 256).astype(np.uint8)
    colour = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(grey))
    made = {
        "photograph.jpg": colour, "colour.png": colour, "transparent.png": clear, "grey.png": Image.fromarray(grey),
        "palette.png": colour.quantize(64, dither=Image.Dither.NONE),
        "scan.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "print.jpg": colour.convert("CMYK"), "lossless.webp": colour,
    }  # fmt: skip
    found = {}
    for name, image in made.items():
        data = io.BytesIO()
        more = {"lossless": True, "method": 0} if name.endswith("webp") else {"compress_level": 1}
        image.save(data, Image.registered_extensions()[Path(name).suffix], **more)
        found[name] = data.getvalue()
    return found


def measured(work: str, count: int, at_once: int) -> tuple[float, float, float]:
    """Megabytes before, at most, and after, in a server of its own that has answered small questions."""
    from browser import served
    from visitor import Visitor, resident

    some = list(pictures().items())
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (address, process):
        visitor = Visitor(address)
        small = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(small, "PNG")
        assert "data:image" in visitor.preview("small.png", small.getvalue())
        assert "clew-card" in visitor.explain("small.png", small.getvalue())
        time.sleep(2)
        before = resident(process.pid)
        sent = [some[i % len(some)] for i in range(count)]
        with ThreadPoolExecutor(at_once) as people:
            for answer in people.map(lambda one: getattr(visitor, work)(*one), sent):
                assert ("data:image" if work == "preview" else "clew-card") in answer, answer[-2_000:]
        time.sleep(2)
        return before, resident(process.pid, "VmHWM"), resident(process.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--work", nargs="*", default=["preview", "explain"])
    parser.add_argument("--dry", action="store_true", help="print the table, leave docs/page.md alone")
    given = parser.parse_args()
    lines = ["| 40 megapixels each | before | at most | after | after / before |", "|---|---|---|---|---|"]
    for work in given.work:
        before, most, after = measured(work, given.count, given.at_once)
        words = f"{given.count} {WORDS[work]}, {given.at_once} at a time"
        lines.append(f"| {words} | {before:.0f} MB | {most:.0f} MB | {after:.0f} MB | {after / before:.2f} |")
        print(lines[-1], flush=True)
    lines += ["", f"Resident memory of the server's process, mini models, Linux; {when()}."]
    if not given.dry:
        write_table("page-memory", "\n".join(lines), "docs/page.md")


if __name__ == "__main__":
    main()
