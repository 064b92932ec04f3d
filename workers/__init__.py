"""What is true only because Celery and a GPU process exist: app, task, claims, reconciling, shutdown."""
