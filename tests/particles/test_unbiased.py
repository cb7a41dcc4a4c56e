"""The evidence estimate is unbiased, and the test that says so sees each of four mistakes."""

import pytest

from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial, stratified, systematic
from tests.particles import models
from tests.particles.unbiased import (
    Auxiliary,
    broken,
    handmade_autoregression,
    log_evidences,
    long,
    ratio,
    report,
    report_broken,
    small,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("scheme", "threshold"), [(systematic, 0), (stratified, 0.5), (multinomial, 1)])
def test_ten_thousand_small_filters_average_to_the_evidence(scheme, threshold):
    ssm, theta, truth = handmade_autoregression()
    settings = ParticleFilter(16, resampling=scheme, threshold=threshold, summaries=())
    found = ratio(log_evidences(ssm, theta, settings, 0, 10_000), truth)
    assert found.sd < 0.5
    assert found.accepted(3), f"bias {found.bias:.4f}, z {found.z:.2f}"


def test_looking_ahead_leaves_the_estimate_unbiased_when_it_resamples_now_and_then():
    ssm, theta, truth = handmade_autoregression()
    settings = ParticleFilter(16, threshold=0.7, summaries=(), proposal=Auxiliary(1.2))
    assert ratio(log_evidences(ssm, theta, settings, 0, 10_000), truth).accepted(1)


@pytest.mark.heavy
def test_each_mistake_is_rejected_where_the_right_kernel_is_accepted():
    for name, right, wrong in broken(handmade_autoregression(), 20_000):
        assert right.accepted(8), name
        assert not wrong.accepted(8), f"{name}: bias {wrong.bias:.4f}, z {wrong.z:.2f}"


@pytest.mark.heavy
def test_every_scheme_and_threshold_on_a_hundred_thousand_filters():
    assert report(small(models.small_autoregression(), 100_000))


@pytest.mark.heavy
@pytest.mark.heavy
def test_each_mistake_is_rejected_on_a_hundred_thousand_filters():
    assert report_broken()


@pytest.mark.heavy
def test_long_series():
    assert report(long())
