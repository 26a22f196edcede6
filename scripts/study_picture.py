"""Draw docs/study.png: a question of the first task on a wide screen, one of the third on a phone.

    python scripts/study_picture.py SET WEIGHTS

SET is MNIST32 with the tangent spaces of its test part, WEIGHTS a file of weights of its LeNet (see
scripts/manifold_table.py). Needs Chromium and Playwright, see scripts/screenshot.py.
"""

import argparse
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.manifold_table import network  # noqa: E402
from scripts.screenshot import ARGUMENTS, find_chromium  # noqa: E402

import veridical as vd  # noqa: E402
from veridical.manifold import open_data_set, open_tangents  # noqa: E402
from veridical.records import write_bytes  # noqa: E402
from veridical.study import StudyPlan, StudyServer, prepare  # noqa: E402
from veridical.study.server import link  # noqa: E402

PICTURE = ROOT / "docs" / "study.png"
IMAGES, SHOWN, QUESTIONS = 100, 12, 3
WIDE, PHONE = {"width": 760, "height": 570}, {"width": 375, "height": 570}
PATIENCE = 120_000
"""Milliseconds."""
METHODS = ("gradient", "integrated-gradients", "gradient-x-input")


def study(folder: Path, images: Tensor, labels: Tensor, basis: Tensor, model: torch.nn.Module) -> Path:
    """A study of three tasks, from maps of the network."""
    maps = {name: vd.method(name)(model, images, None).detach().contiguous() for name in METHODS}
    with torch.no_grad():
        predictions = model(images).argmax(1)
    spaces = basis.float().contiguous()
    chosen = {"labels": labels, "predictions": predictions, "map": maps["gradient"], "basis": spaces}
    save_file(chosen, folder / "parts.safetensors")
    save_file({**maps, "basis": spaces}, folder / "fractions.safetensors")
    shown = {name: maps[name] for name in ("gradient", "gradient-x-input")}
    save_file({**shown, "images": images.clamp(0, 1)}, folder / "object.safetensors")
    parts, fractions, pictures = (folder / f"{name}.safetensors" for name in ("parts", "fractions", "object"))
    plan = StudyPlan(parts=parts, fractions=fractions, object=pictures, images=SHOWN, questions=QUESTIONS)
    prepare(folder / "study", plan)
    return folder / "study"


@contextmanager
def serving(folder: Path) -> Iterator[StudyServer]:
    """A server on a free port."""
    with StudyServer(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def seen(browser: Any, address: str, size: dict[str, int], position: int) -> Image.Image:
    """The page of a participant at the question of that position."""
    page = browser.new_page(viewport=size)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.click("#agree")
    for place in range(position + 1):
        page.wait_for_selector("#introduction:visible, #asking:visible")
        if page.is_visible("#introduction"):
            page.click("#start")
        page.wait_for_function(
            "at => document.documentElement.dataset.asking === at && performance.now() >= readyAt",
            arg=str(place),
        )
        if place < position:
            page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => [...document.images].every(one => one.complete)")
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def beside(pictures: list[Image.Image], gap: int = 16) -> Image.Image:
    """The pictures in a row, with gray between them."""
    width = sum(one.width for one in pictures) + gap * (len(pictures) + 1)
    found = Image.new("RGB", (width, max(one.height for one in pictures) + 2 * gap), "#999999")
    left = gap
    for one in pictures:
        found.paste(one, (left, gap))
        left += one.width + gap
    return found


def main() -> int:
    """Prepare a study in a temporary folder, take part, and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    asked = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.stderr.write("expected a Chromium, got none; install it (apt-get install chromium)\n")
        return 2
    from playwright.sync_api import sync_playwright

    data = open_data_set(asked.set)
    images, labels = (data.load(column, "test", limit=IMAGES) for column in ("images", "labels"))
    basis = open_tangents(data.folder / "tangents-test")[:IMAGES]
    model = network(data.manifest.shape, data.manifest.classes, 0)
    model.load_state_dict(load_file(asked.weights))
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = study(Path(place), images.float(), labels, basis, model.eval())
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        with serving(folder) as server:
            links = [link(server.address, server.answers.invite()) for _ in range(2)]
            wide = seen(browser, links[0], WIDE, 0)
            phone = seen(browser, links[1], PHONE, 2 * QUESTIONS)
        browser.close()
    small = io.BytesIO()
    few = beside([wide, phone]).quantize(128, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    write_bytes(asked.picture, small.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
