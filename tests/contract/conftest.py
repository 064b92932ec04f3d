from tests.farm_fixtures import broker, long_probe, redis_server, start_worker

__all__ = ["broker", "long_probe", "redis_server", "start_worker"]
