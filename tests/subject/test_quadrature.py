"""Quadrature rules against integrals that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clew.subject.quadrature import quadrature_rule


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9])
def test_gauss_legendre_is_exact_for_polynomials_of_degree_2n_minus_1(n):
    rule = quadrature_rule("gauss_legendre", n)
    for degree in range(2 * n):
        assert float((rule.weights * rule.points**degree).sum()) == pytest.approx(1 / (degree + 1), rel=1e-12)
    assert not rule.ends_at_one


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9])
def test_its_coarse_rule_leaves_one_point_out_and_is_exact_to_degree_n_minus_2(n):
    rule = quadrature_rule("gauss_legendre", n)
    assert (rule.coarse == 0).sum() == 1
    for degree in range(n - 1):
        assert float((rule.coarse * rule.points**degree).sum()) == pytest.approx(1 / (degree + 1), rel=1e-11)


def test_uniform_is_the_papers_mean_with_the_trapezoid_beside_it():
    rule = quadrature_rule("uniform", 20)
    np.testing.assert_allclose(rule.points, np.linspace(0, 1, 20))
    np.testing.assert_allclose(rule.weights, np.full(20, 1 / 20))
    np.testing.assert_allclose(rule.coarse, np.array([0.5] + [1] * 18 + [0.5]) / 19)
    assert rule.ends_at_one


def test_one_uniform_step_is_the_input_itself_and_tells_no_error():
    rule = quadrature_rule("uniform", 1)
    assert rule.points.tolist() == [1.0]
    assert torch.isnan(rule.coarse).all()
    assert torch.isnan(quadrature_rule("gauss_legendre", 1).coarse).all()
