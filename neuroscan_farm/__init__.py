"""neuroscan-farm: a scan farm for the layers of decoder language models."""

__version__ = "0.1.0"
