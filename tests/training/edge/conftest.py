import pytest


def pytest_configure(config: pytest.Config):
    config.addinivalue_line("markers", 'executorch: needs pip install -e ".[mobile]" in an environment of its own')
