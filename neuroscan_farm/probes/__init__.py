"""What models are asked: built-in probes, the catalogue, and the loader of custom probes."""
