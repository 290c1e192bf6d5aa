"""Many images: explained by several processes, into a table and a store of maps (``docs/batch.md``).

>>> from portable_cam import batch
>>> done = batch.run("model.onnx", "photos/", "out")                     # doctest: +SKIP
>>> batch.open("out")["cat.jpg"].overlay("gradcam")                      # doctest: +SKIP
"""

from importlib.util import find_spec

from portable_cam.errors import OptionError
from portable_cam.spelling import installing

if find_spec("pyarrow") is None:
    raise OptionError(f"pyarrow is not installed: {installing('batch')}")

from portable_cam.batch.engine import run
from portable_cam.batch.results import Results
from portable_cam.batch.results import open_results as open

__all__ = ["Results", "open", "run"]
