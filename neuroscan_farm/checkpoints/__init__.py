"""Checkpoints made along a layer path: written by `materialize`, and proven to be what was measured by `verify`.

Nothing here prints. What needs torch is asked of the engine, and only when it is needed.
"""
