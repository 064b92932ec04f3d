"""The engine: the only place that imports torch. A shard of paths goes in, rows come out.

`warm` holds a loaded model between shards; `loading` loads it; `anatomy` knows its layer list; `replay` runs single
layers with the arguments that the model itself computed; `boundaries` caches the baseline's residual stream;
`executor` runs the paths; `scoring` reads the last token's logits; `gate` proves all that on the model at hand.
"""
