"""Load the fixtures of tests/shared_fixtures.py where tests run."""

import pytest

pytest.register_assert_rewrite("shared_fixtures")


def pytest_configure(config):
    # with -n 2, this process runs no test: the fixtures import PyTorch and all scripts, which takes seconds
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
