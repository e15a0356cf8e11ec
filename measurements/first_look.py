"""The picture at the top of the README: a photograph with maps of four methods, and a text with its words coloured.

    python measurements/first_look.py --vit FOLDER --sentiment FOLDER --photograph chelsea.png

FOLDERs hold the ViT-S on CIFAR-10 and the MiniLM of results/README.md; the photograph is scikit-image's cat (CC0,
Stéfan van der Walt). It shows what results look like; it is evidence of nothing, see docs/which-method.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from report import ROOT

import clew

BOX = (60, 0, 360, 300)  # the face
METHODS = ("beyond_intuition_token", "libra_full_grad_plus", "res_lrp", "attn_lrp")
REVIEW = "The plot is thin and the jokes are old, but the two leads are so charming that I left the cinema smiling."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vit", "sentiment", "photograph"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    photograph = Image.open(given.photograph).convert("RGB").crop(BOX)
    model, reader = clew.load(given.vit), clew.load(given.sentiment)
    with tempfile.TemporaryDirectory() as folder:
        top, below = Path(folder) / "top.png", Path(folder) / "below.png"
        clew.compare([clew.explain(model, photograph, method=name) for name in METHODS], str(top))
        clew.explain(reader, REVIEW, method="attn_lrp").save(str(below))
        rows = [Image.open(file).convert("RGB") for file in (top, below)]
    width = rows[0].width
    rows[1] = rows[1].resize((width, rows[1].height * width // rows[1].width), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    for row, y in zip(rows, (0, rows[0].height), strict=True):
        whole.paste(row, (0, y))
    whole.save(ROOT / "docs" / "first-look.jpg", quality=90)


if __name__ == "__main__":
    main()
