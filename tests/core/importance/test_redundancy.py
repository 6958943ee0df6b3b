import numpy as np
import pytest
from scipy.linalg import qr

from rl_crop.core.importance.redundancy import pivoted_energies


@pytest.mark.parametrize("shape", [(50, 12), (8, 20), (30, 1)])
def test_energies_are_the_squared_diagonal_of_a_pivoted_qr(shape):
    matrix = np.random.default_rng(0).normal(size=shape) * np.logspace(0, -3, shape[1])
    _, r, order = qr(matrix, mode="economic", pivoting=True)
    wanted = np.zeros(shape[1])
    wanted[order[: min(shape)]] = np.diag(r) ** 2
    assert np.allclose(pivoted_energies(matrix), wanted, rtol=1e-7, atol=1e-12 * wanted.max())


def test_columns_that_the_others_reproduce_score_nothing():
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(40, 3))
    energies = pivoted_energies(basis @ rng.normal(size=(3, 10)))
    assert (energies > 1e-6).sum() == 3 and (energies[energies < 1e-6] <= 1e-10 * energies.max()).all()
    assert not pivoted_energies(np.zeros((5, 4))).any()


def test_orthogonal_columns_keep_their_own_energies():
    matrix = np.eye(4) * [1.0, 3.0, 2.0, 0.5]
    assert np.allclose(pivoted_energies(matrix), [1.0, 9.0, 4.0, 0.25])
