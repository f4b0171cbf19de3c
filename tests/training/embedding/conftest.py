import pytest

from tests.modeling.color_model import save_color_model


@pytest.fixture(scope="session")
def color_model(tmp_path_factory):
    """Folder of a model that knows colors. Tests must not write into it."""
    return save_color_model(tmp_path_factory.mktemp("colors") / "model")
