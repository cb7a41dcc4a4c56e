"""The linear model and its exact posterior, once for the whole folder."""

import pytest

import ssmscan
from tests.inference.models import Y, linear_gaussian, linear_posterior


@pytest.fixture(scope="session")
def linear():
    return ssmscan.trace(linear_gaussian, Y)


@pytest.fixture(scope="session")
def exact():
    return linear_posterior(Y)
