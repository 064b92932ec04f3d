"""How shards reach workers: in this process, by local child processes, or by Celery. One contract, three ways."""
