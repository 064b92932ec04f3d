"""Weights that do not come by transformers' own loading: read one by one into their place, or streamed layer by layer."""
