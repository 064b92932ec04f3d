"""The engine: the only place that imports torch. A shard of paths goes in, rows come out.

`warm` holds a loaded model between shards; `loading` loads it, `weights/` where memory is short; `anatomy` knows its layer
list, `independence` whether layers depend on the residual stream alone; `lanes/` run one layer; `sweep` carries paths
through the layers; `baseline` and `boundaries` keep the untouched model's residual stream; `executor` turns tasks into
measurements, with `heads` and `scoring` for the last token's logits; `gate` proves all that on the model at hand.
"""
