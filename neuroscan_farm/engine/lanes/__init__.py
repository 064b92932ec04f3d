"""Lanes: two ways to run one layer on a micro-batch, the model's own modules and fewer, larger operations of ours."""
