"""Room for other engines behind the same seam; transformers is the one there is, in the modules beside."""
