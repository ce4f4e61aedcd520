import every_network
import pytest


@pytest.fixture(scope="session", autouse=True)
def networks():
    with pytest.MonkeyPatch.context() as patch:
        every_network.registered(patch)
        yield
