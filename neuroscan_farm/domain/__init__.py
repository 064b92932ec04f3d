"""The words of the field as values: paths, probes, requests, tasks, shards, measurements. No input or output."""
