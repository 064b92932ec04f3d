"""The broker over TLS with a password: redis-py and Celery both, and what they say of a wrong authority."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kombu.exceptions
import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher, make_app, send_order, submit
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.errors import BrokerError
from tests.conftest import MakeRun
from tests.dispatch.tls import TlsProxy
from tests.farm_fixtures import order_of

PASSWORD = "geheim-9f3"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsProxy]:
    with (
        RedisServer(password=PASSWORD) as server,
        TlsProxy(server.socket, tmp_path_factory.mktemp("tls")) as proxy,
    ):
        yield proxy


def test_orders_travel_over_tls(tls: TlsProxy, make_run: MakeRun) -> None:
    url = tls.url(PASSWORD)
    run = make_run(executor="celery")
    broker = Broker(url, queue="tls")
    submit(run, broker)
    dispatcher = CeleryDispatcher(run, broker, make_app(url, "tls"))
    before = tls.connections
    dispatcher.send(order_of(run))
    assert tls.connections > before, "Celery connects on its own"
    assert broker.queued() == {run.manifest.run_id: {order_of(run).shard_id}}
    broker.close()


def test_a_server_of_another_authority_is_refused_with_the_mend(tls: TlsProxy) -> None:
    for url in (tls.url(PASSWORD, tls.wrong_ca), tls.url(PASSWORD).partition("?")[0]):
        with pytest.raises(BrokerError, match=r"certificate is not trusted.*ssl_ca_certs=") as caught:
            Broker(url).ping()
        assert caught.value.exit_code == 4
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("ca", ["wrong", "none"])
def test_celery_does_not_send_to_a_server_of_another_authority(
    make_run: MakeRun, tmp_path: Path, ca: str
) -> None:
    run = make_run(executor="celery")
    # A server of this test's own: kombu shares connections between applications of the same host and port.
    with RedisServer(password=PASSWORD) as server, TlsProxy(server.socket, tmp_path) as proxy:
        url = proxy.url(PASSWORD, proxy.wrong_ca) if ca == "wrong" else proxy.url(PASSWORD).partition("?")[0]
        with pytest.raises(kombu.exceptions.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            send_order(make_app(url, "tls"), "tls", order_of(run))
        assert proxy.connections == 0, "nothing got through"


def test_a_wrong_password_is_refused_with_the_mend(tls: TlsProxy) -> None:
    with pytest.raises(BrokerError, match=r"refuses us.*PASSWORD") as caught:
        Broker(tls.url("falsch-77")).ping()
    assert "falsch-77" not in str(caught.value)


def test_a_server_without_tls_is_said_to_be_out_of_reach(redis_server: RedisServer) -> None:
    with (
        RedisServer(password=PASSWORD, port=None) as server,
        pytest.raises(BrokerError, match="out of reach"),
    ):
        Broker(f"rediss://:{PASSWORD}@127.0.0.1:1/0?ssl_ca_certs={server.socket}").ping()
