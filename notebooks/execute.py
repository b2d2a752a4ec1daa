"""Run notebooks in place and keep what a reader needs: `python notebooks/execute.py [FILE ...]`.

Progress bars, messages on standard error and times of runs are dropped. Pictures keep 256 colours,
which makes them a fifth as large.
"""

import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLOURS = 256
TIMEOUT = 300  # seconds a cell
KEPT = ("kernelspec", "language_info")
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = ""  # the text of what a progress bar leaves behind


def smaller(png: str) -> str:
    """The same picture, as base64, with a palette in place of full colours.

    >>> plain = BytesIO()
    >>> Image.new("RGBA", (9, 9), "white").save(plain, "PNG")
    >>> Image.open(BytesIO(b64decode(smaller(b64encode(plain.getvalue()).decode())))).mode
    'P'
    """
    packed = BytesIO()
    full = Image.open(BytesIO(b64decode(png))).convert("RGB")
    full.quantize(COLOURS, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return b64encode(packed.getvalue()).decode()


def kept(outputs: list) -> list:
    """Outputs without progress bars and standard error."""
    shown: list = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data or data.get("text/plain") == PROGRESS or output.get("name") == "stderr":
            continue
        if "name" in output and shown and "name" in shown[-1]:
            shown[-1].text += output.text  # a bar had stood between
        else:
            shown.append(output)
    for data in (o.get("data", {}) for o in shown):
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
    return shown


def execute(file: Path) -> None:
    """Run one notebook from a fresh kernel and write it back."""
    notebook = nbformat.read(file, as_version=4)
    folder = {"metadata": {"path": str(file.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT, resources=folder).execute()
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    nbformat.write(notebook, file)


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    for each in given or sorted(Path(__file__).parent.glob("*.ipynb")):
        execute(each)
