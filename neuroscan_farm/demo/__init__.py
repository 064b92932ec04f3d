"""The demo model: a small decoder of our own, shipped with the package, so that every command runs offline.

`MODEL_DIR` is an ordinary Hugging Face folder. Importing this package never imports torch.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
