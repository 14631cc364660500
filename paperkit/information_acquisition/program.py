"""The optimal incentive-compatible mechanism is a linear program of the size of its input.

With ``x_i[b, s, theta] = mu(b) gamma_i[b, s, theta]`` everything is linear. The ``m_i ** m_i``
ways of misreporting are replaced by one variable per signal, the best that expert i can get at
that signal (standard for such models; constants checked against the definition in
:mod:`.definition`)::

    z_i[b_i, b_i', s_i] >= sum P(s, theta | b_i', b_-i) x_i[b, (s_i', s_-i), theta]  for all s_i'
        (sum over b_-i, s_-i, theta)
    sum_{s_i} z_i[b_i, b_i', s_i] - c_i(b_i') mu_i(b_i) <= truthful pay at b_i - c_i(b_i) mu_i(b_i)

The payment keeps the *recommended* profile b, the signals come from the *played* one. Two exact
simplifications: nothing couples the decision to payments, so it is the Bayes decision; an expert
who is told the cheapest effort need not be paid.

The same program with cell-wise bounds ``low <= P <= high`` (``low`` where the truth is paid,
``high`` where a deviation is) gives mechanisms that are incentive compatible for every kernel in
between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import linprog

from .problem import NEVER, Array, HiringProblem, Mechanism, check_recommendation, point_mass
from .problem import _like as like

_TOLERANCE = 1e-9  # of the solver, tighter than its default of 1e-7


@dataclass(frozen=True, eq=False)
class KernelIntervals:
    """Cell-wise bounds on an estimated kernel, all three shaped like the kernel."""

    low: Array
    centre: Array
    high: Array

    def __post_init__(self) -> None:
        for name in ("low", "centre", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        if not (self.low.shape == self.centre.shape == self.high.shape):
            raise ValueError(
                f"intervals must have one shape, got low {self.low.shape}, "
                f"centre {self.centre.shape}, high {self.high.shape}"
            )
        if (self.low < -1e-15).any():
            raise ValueError(f"intervals.low has a negative entry: {self.low.min()}")
        worst = max((self.low - self.centre).max(), (self.centre - self.high).max())
        if worst > 1e-12:
            raise ValueError(
                f"intervals must bracket the centre, low <= centre <= high; violated by {worst:.3g}"
            )


@dataclass(frozen=True, eq=False)
class SparseLP:
    """``min c v`` subject to ``A_ub v <= b_ub``, ``A_eq v = b_eq``, ``0 <= v <= upper``.

    Attributes
    ----------
    c : array (N,)
    A_ub : csr array (R, N)
    b_ub : array (R,)
    A_eq : csr array (1, N)
    b_eq : array (1,)
    upper : array (N,)
    slices : dict
        Columns of ``"mu"``, ``"x0"``, ``"x1"``, .., ``"z0"``, ..; rows of ``"truth0"``,
        ``"report0"``, ``"obey0"``, ``"cap0"``, ...
    cells : tuple of n bool arrays shaped like the kernel
        The cells (b, s, theta), in C order, that the columns ``x_i`` stand for.
    """

    c: Array
    A_ub: sparse.csr_array
    b_ub: Array
    A_eq: sparse.csr_array
    b_eq: Array
    upper: Array
    slices: dict[str, slice]
    cells: tuple[Array, ...]

    @property
    def nnz(self) -> int:
        """Number of non-zero entries of the inequality rows."""
        return int(self.A_ub.nnz)


def predicted_nonzeros(n_agents: int, n_actions: int, n_signals: int, n_states: int) -> int:
    """Non-zeros of the inequality rows before simplification, for a strictly positive kernel.

    Parameters
    ----------
    n_agents, n_actions, n_signals, n_states : int
        n experts with k efforts of distinct cost and m signals each; t states.

    Returns
    -------
    int
        ``n [k(k-1)m^2(R+1) + k(k-1)(m + mR + k^(n-1)) + 2km(m-1)R + 2L]`` with ``L = (km)^n t``
        cells and ``R = L/(km)`` (ours).
    """
    n, k, m = n_agents, n_actions, n_signals
    cells = (k * m) ** n * n_states
    rest = cells // (k * m)
    deviations = k * (k - 1)
    return n * (
        deviations * m**2 * (rest + 1)
        + deviations * (m + m * rest + k ** (n - 1))
        + 2 * k * m * (m - 1) * rest
        + 2 * cells
    )


def _expert_first(array: Array, agent: int, n_agents: int) -> Array:
    """View (k.., m.., t) as (k_i, m_i, R): one expert's effort and signal first."""
    moved = np.moveaxis(array, (agent, n_agents + agent), (0, 1))
    return moved.reshape(moved.shape[0], moved.shape[1], -1)


class _Rows:
    """Collects blocks of inequality rows in coordinate form."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.cols: list[Array] = []
        self.vals: list[Array] = []
        self.n = 0
        self.slices: dict[str, slice] = {}

    def block(self, name: str, n_rows: int, *entries: tuple[Array, Array, Array]) -> None:
        """Add ``n_rows`` rows; each entry is (row within the block, column, value), broadcast."""
        for row, col, val in entries:
            shape = np.broadcast_shapes(row.shape, col.shape, val.shape)
            row, col, val = (np.broadcast_to(part, shape).ravel() for part in (row, col, val))
            keep = val != 0
            self.rows.append(row[keep] + self.n)
            self.cols.append(col[keep])
            self.vals.append(val[keep])
        self.slices[name] = slice(self.n, self.n + n_rows)
        self.n += n_rows

    def matrix(self, n_cols: int) -> sparse.csr_array:
        entries = (
            np.concatenate(self.vals),
            (np.concatenate(self.rows), np.concatenate(self.cols)),
        )
        return sparse.coo_array(entries, shape=(self.n, n_cols)).tocsr()


def build_lp(
    problem: HiringProblem,
    *,
    kernel: ArrayLike | None = None,
    kernel_low: ArrayLike | None = None,
    kernel_high: ArrayLike | None = None,
    cost_low: tuple[ArrayLike, ...] | None = None,
    cost_high: tuple[ArrayLike, ...] | None = None,
    presolve: bool = True,
) -> SparseLP:
    """Assemble the linear program, without a Python loop over cells.

    Parameters
    ----------
    problem : HiringProblem
    kernel : array, optional
        Kernel of the objective (an estimate); default ``problem.kernel``.
    kernel_low, kernel_high : array, optional
        Used where truthful pay is counted and where a deviation's pay is counted; default
        ``kernel``. Nothing forces ``low <= high``: exchanged, they relax the constraints instead.
    cost_low, cost_high : tuple of arrays, optional
        Bounds on the costs; a deviation saves at most ``cost_high(told) - cost_low(played)``.
    presolve : bool
        Fix the payments after the cheapest recommendation to 0 and drop their rows (exact).

    Returns
    -------
    SparseLP
    """
    n, cap = problem.n_agents, problem.payment_cap
    shape = problem.kernel.shape
    centre = problem.kernel if kernel is None else like(kernel, problem.kernel, "kernel")
    low = centre if kernel_low is None else like(kernel_low, problem.kernel, "kernel_low")
    high = centre if kernel_high is None else like(kernel_high, problem.kernel, "kernel_high")
    c_low, c_high = _cost_bounds(problem, cost_low, cost_high)
    n_profiles = int(np.prod(problem.n_actions))
    mu = np.arange(n_profiles).reshape(problem.n_actions)
    cell_profile = np.broadcast_to(mu.reshape(problem.n_actions + (1,) * (n + 1)), shape)

    rows = _Rows()
    cells = []
    slices = {"mu": slice(0, n_profiles)}
    objective = [-problem.values(centre).ravel()]
    upper = [np.ones(n_profiles)]
    n_cols = n_profiles
    for i in range(n):
        k, m = problem.n_actions[i], problem.n_signals[i]
        # Told one of these efforts an expert is never paid, so nothing has to be written down.
        free = c_high[i] <= c_low[i].min() if presolve else np.zeros(k, bool)
        told = np.flatnonzero(~free)
        lo, hi = _expert_first(low, i, n), _expert_first(high, i, n)  # (k, m, R)
        paid = np.isin(np.arange(k), told)
        paid_cells = np.broadcast_to(paid.reshape((k,) + (1,) * (2 * n)), (k, *_without(shape, i)))
        paid_cells = np.moveaxis(paid_cells, 0, i)
        cells.append(paid_cells)
        x = np.full(shape, -1)
        x[paid_cells] = n_cols + np.arange(paid_cells.sum())
        slices[f"x{i}"] = slice(n_cols, n_cols + int(paid_cells.sum()))
        n_cols = slices[f"x{i}"].stop
        objective.append(centre[paid_cells])
        # A payment that is never due under obedience can only tempt: it is 0.
        upper.append(np.where((centre[paid_cells] > 0) | (low[paid_cells] > 0), np.inf, 0.0))
        xe = _expert_first(x, i, n)[told]  # (T, m, R)
        own_mu = np.moveaxis(mu, i, 0).reshape(k, -1)[told]  # (T, profiles of the others)
        T = len(told)

        # Truth: reporting s' in place of s after obeying does not pay.      rows (told, s, s' != s)
        index = _offdiagonal(T, m)
        n_truth = T * m * (m - 1)
        t, s, r = np.nonzero(index >= 0)
        row = index[t, s, r][:, None]
        rows.block(
            f"truth{i}",
            n_truth,
            (row, xe[t, r], hi[told][t, s]),
            (row, xe[t, s], -lo[told][t, s]),
        )
        # Report: z is at least what any report brings after playing b'. Rows (told, b', s, s')
        pair_told, pair_played = np.nonzero(told[:, None] != np.arange(k)[None, :])
        D = len(pair_told)
        z = n_cols + np.arange(D * m).reshape(D, m)
        slices[f"z{i}"] = slice(n_cols, n_cols + D * m)
        n_cols += D * m
        objective.append(np.zeros(D * m))
        upper.append(np.full(D * m, np.inf))
        row4 = np.arange(D * m * m).reshape(D, m, m)
        rows.block(
            f"report{i}",
            D * m * m,
            (row4[..., None], xe[pair_told][:, None, :, :], hi[pair_played][:, :, None, :]),
            (row4, z[:, :, None], np.array(-1.0)),
        )
        # Obedience.                                                          rows (told, b')
        pair = np.arange(D)
        saved = c_high[i][told[pair_told]] - c_low[i][pair_played]
        rows.block(
            f"obey{i}",
            D,
            (pair[:, None], z, np.array(1.0)),
            (pair[:, None, None], xe[pair_told], -lo[told][pair_told]),
            (pair[:, None], own_mu[pair_told], saved[:, None]),
        )
        # Cap: x <= M mu. Without it there are payments with probability zero.
        cell = np.arange(int(paid_cells.sum()))
        rows.block(
            f"cap{i}",
            len(cell),
            (cell, x[paid_cells], np.array(1.0)),
            (cell, cell_profile[paid_cells], np.array(-cap)),
        )
    A_ub = rows.matrix(n_cols)
    A_eq = sparse.csr_array(
        (np.ones(n_profiles), (np.zeros(n_profiles, int), np.arange(n_profiles))), (1, n_cols)
    )
    return SparseLP(
        c=np.concatenate(objective),
        A_ub=A_ub,
        b_ub=np.zeros(A_ub.shape[0]),
        A_eq=A_eq,
        b_eq=np.ones(1),
        upper=np.concatenate(upper),
        slices=slices | rows.slices,
        cells=tuple(cells),
    )


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _offdiagonal(n_blocks: int, m: int) -> Array:
    """Row numbers (n_blocks, m, m) of the pairs s != s', -1 on the diagonal."""
    index = np.full((n_blocks, m, m), -1)
    off = ~np.eye(m, dtype=bool)
    index[:, off] = np.arange(n_blocks * m * (m - 1)).reshape(n_blocks, m * (m - 1))
    return index


def _cost_bounds(
    problem: HiringProblem,
    cost_low: tuple[ArrayLike, ...] | None,
    cost_high: tuple[ArrayLike, ...] | None,
) -> tuple[list[Array], list[Array]]:
    bounds = []
    for name, value in (("cost_low", cost_low), ("cost_high", cost_high)):
        if value is None:
            bounds.append([np.asarray(c) for c in problem.costs])
            continue
        if len(value) != problem.n_agents:
            raise ValueError(
                f"{name} must have one array per expert ({problem.n_agents}), got {len(value)}"
            )
        bounds.append(
            [
                like(v, c, f"{name}[{i}]")
                for i, (v, c) in enumerate(zip(value, problem.costs, strict=True))
            ]
        )
    low, high = bounds
    for i in range(problem.n_agents):
        if (low[i] > high[i]).any():
            raise ValueError(f"cost_low[{i}] must not exceed cost_high[{i}]: {low[i]}, {high[i]}")
    return low, high


def optimal_mechanism(
    problem: HiringProblem,
    *,
    recommendation: ArrayLike | None = None,
    own_report_only: bool = False,
    intervals: KernelIntervals | None = None,
    relaxed: bool = False,
    solver: str = "highs",
) -> Mechanism:
    """Best incentive-compatible mechanism.

    Parameters
    ----------
    problem : HiringProblem
    recommendation : array (k_1, .., k_n), optional
        Fix the distribution of recommendations and optimise the payments only.
    own_report_only : bool
        Pay expert i by ``(b_i, s_i, theta)`` only. Needs ``recommendation``, since the class is not
        convex otherwise.
    intervals : KernelIntervals, optional
        Estimated kernel with bounds. The mechanism is incentive compatible for every kernel inside
        them, and value and decisions are those of the centre; ``problem.kernel`` is not looked at.
    relaxed : bool
        Exchange the bounds: the optimal mechanism of every kernel inside stays feasible, and the
        result need not be incentive compatible.
    solver : {"highs", "highs-ds", "highs-ipm"}
        Method of :func:`scipy.optimize.linprog`.

    Returns
    -------
    Mechanism
        With ``status="infeasible"`` and value ``-inf`` if no payments within the cap make a fixed
        ``recommendation`` incentive compatible.
    """
    if solver not in ("highs", "highs-ds", "highs-ipm"):
        raise ValueError(f"solver must be highs, highs-ds or highs-ipm, got {solver!r}")
    if own_report_only and recommendation is None:
        raise ValueError("own_report_only needs a fixed recommendation")
    if relaxed and intervals is None:
        raise ValueError("relaxed needs intervals")
    mu = None if recommendation is None else check_recommendation(problem, recommendation)
    if intervals is None:
        kernel = problem.kernel
        lp = build_lp(problem)
    else:
        kernel = like(intervals.centre, problem.kernel, "intervals.centre")
        low, high = (intervals.high, intervals.low) if relaxed else (intervals.low, intervals.high)
        lp = build_lp(problem, kernel=kernel, kernel_low=low, kernel_high=high)
    return solve_lp(
        problem,
        lp,
        kernel=kernel,
        recommendation=mu,
        own_report_only=own_report_only,
        solver=solver,
    )


def solve_lp(
    problem: HiringProblem,
    lp: SparseLP,
    *,
    kernel: Array | None = None,
    recommendation: Array | None = None,
    own_report_only: bool = False,
    solver: str = "highs",
) -> Mechanism:
    """Solve an assembled program and turn its solution into a mechanism.

    Parameters
    ----------
    problem : HiringProblem
    lp : SparseLP
        From :func:`build_lp`, possibly changed.
    kernel : array, optional
        Kernel that the decisions are made with; default ``problem.kernel``.
    recommendation, own_report_only, solver
        As in :func:`optimal_mechanism`.

    Returns
    -------
    Mechanism
    """
    kernel = problem.kernel if kernel is None else kernel
    lower, upper = np.zeros(len(lp.c)), lp.upper.copy()
    if recommendation is not None:
        lower[lp.slices["mu"]] = upper[lp.slices["mu"]] = recommendation.ravel()
    c, A_ub, A_eq = lp.c, lp.A_ub, lp.A_eq
    basis = None
    if own_report_only:
        assert recommendation is not None
        basis = _own_report_basis(problem, lp, recommendation)
        c, A_ub, A_eq = basis.T @ c, (A_ub @ basis).tocsr(), (A_eq @ basis).tocsr()
        n_mu = lp.slices["mu"].stop
        lower = np.concatenate([lower[:n_mu], np.zeros(basis.shape[1] - n_mu)])
        useful = np.where(basis.T @ (upper > 0) > 0, np.inf, 0.0)
        upper = np.concatenate([upper[:n_mu], useful[n_mu:]])
    result = linprog(
        c,
        A_ub=A_ub,
        b_ub=lp.b_ub,
        A_eq=A_eq,
        b_eq=lp.b_eq,
        bounds=np.column_stack([lower, upper]),
        method=solver,
        options={
            "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE,
        },
    )
    decision = problem.decision_rule(kernel)
    if result.status == 2:
        mu = np.zeros(problem.n_actions) if recommendation is None else recommendation
        nothing = tuple(np.zeros(problem.kernel.shape) for _ in range(problem.n_agents))
        return Mechanism(mu, nothing, decision, -np.inf, "infeasible")
    if result.status != 0:
        raise RuntimeError(f"the solver stopped: {result.message}")
    solution = result.x if basis is None else basis @ result.x
    mu = np.clip(solution[lp.slices["mu"]], 0, None).reshape(problem.n_actions)
    mu = mu / mu.sum()
    payments = tuple(
        _payments(problem, lp, solution, mu, agent) for agent in range(problem.n_agents)
    )
    return Mechanism(mu, payments, decision, -float(result.fun), "optimal")


def _payments(
    problem: HiringProblem, lp: SparseLP, solution: Array, mu: Array, agent: int
) -> Array:
    x = np.zeros(problem.kernel.shape)
    x[lp.cells[agent]] = solution[lp.slices[f"x{agent}"]]
    weight = mu.reshape(mu.shape + (1,) * (problem.n_agents + 1))
    paid = np.divide(
        x, weight, out=np.zeros_like(x), where=np.broadcast_to(weight > NEVER, x.shape)
    )
    return np.clip(paid, 0, problem.payment_cap)


def _own_report_basis(problem: HiringProblem, lp: SparseLP, mu: Array) -> sparse.csr_array:
    """Matrix that writes ``x_i[b, s, theta] = mu(b) g_i[b_i, s_i, theta]`` (columns: mu, g, z)."""
    n = problem.n_agents
    shape = problem.kernel.shape
    weight = np.broadcast_to(mu.reshape(mu.shape + (1,) * (n + 1)), shape)
    index = np.indices(shape)
    blocks = [sparse.eye_array(lp.slices["mu"].stop)]
    for i in range(n):
        cells = lp.cells[i]
        own = np.ravel_multi_index(
            (index[i], index[n + i], index[-1]), (shape[i], shape[n + i], shape[-1])
        )
        used, column = np.unique(own[cells], return_inverse=True)
        entries = (weight[cells], (np.arange(int(cells.sum())), column))
        blocks.append(sparse.coo_array(entries, shape=(int(cells.sum()), len(used))))
        z = lp.slices[f"z{i}"]
        blocks.append(sparse.eye_array(z.stop - z.start))
    return sparse.block_diag(blocks, format="csr")


def uncorrelated_mechanism(problem: HiringProblem) -> Mechanism:
    """Best mechanism that needs no coordination: one fixed profile, each paid on his own report.

    Parameters
    ----------
    problem : HiringProblem

    Returns
    -------
    Mechanism
        Best over all profiles b of the least payments ``gamma_i[s_i, theta]``. Given b the experts do not
        meet, so that each has a small program of his own.
    """
    n = problem.n_agents
    known: dict[tuple[int, int, bytes], tuple[float, Array]] = {}
    extra = [costs - costs.min() for costs in problem.costs]

    def alone(agent: int, profile: tuple[int, ...]) -> tuple[float, Array]:
        """Least expected payment and rule (m_i, t) that make one expert obey; others obey."""
        if extra[agent][profile[agent]] == 0:  # the cheapest effort comes for nothing
            return 0.0, np.zeros((problem.n_signals[agent], problem.n_states))
        index = tuple(slice(None) if j == agent else profile[j] for j in range(n))
        others = tuple(1 + j for j in range(n) if j != agent)
        own = problem.kernel[index].sum(axis=others)  # (k_i, m_i, t)
        key = (agent, profile[agent], own.round(12).tobytes())  # sums differ in the last bits
        if key not in known:
            single = HiringProblem(
                own, (problem.costs[agent],), problem.utility, problem.payment_cap
            )
            told = (profile[agent],)
            made = optimal_mechanism(single, recommendation=point_mass(single, told))
            known[key] = (float(single.values()[told]) - made.value, made.payments[0][told])
        return known[key]

    values = problem.values()
    # An expert who may idle for nothing is paid what his effort costs, or more.
    bound = values - sum(np.ix_(*extra))
    best, chosen = -np.inf, (0,) * n
    for profile in _by_value(bound):
        if bound[profile] <= best:
            break  # the rest cannot win
        value = float(values[profile]) - sum(alone(i, profile)[0] for i in range(n))
        if value > best:
            best, chosen = value, profile
    payments = []
    for i in range(n):
        pay = np.zeros(problem.kernel.shape)
        view = [1] * (n + 1)
        view[i], view[-1] = problem.n_signals[i], problem.n_states
        pay[chosen] = alone(i, chosen)[1].reshape(view)
        payments.append(pay)
    return Mechanism(
        point_mass(problem, chosen), tuple(payments), problem.decision_rule(), best, "optimal"
    )


def fixed_mechanism(problem: HiringProblem) -> Mechanism:
    """Best mechanism that always recommends the same profile; payments may compare reports."""
    best: Mechanism | None = None
    values = problem.values()
    for profile in _by_value(values):
        if best is not None and values[profile] <= best.value:
            break
        mechanism = optimal_mechanism(problem, recommendation=point_mass(problem, profile))
        if best is None or mechanism.value > best.value:
            best = mechanism
    assert best is not None
    return best


def _by_value(values: Array) -> list[tuple[int, ...]]:
    """Profiles of efforts, the most valuable first."""
    order = np.argsort(-values, axis=None, kind="stable")
    return [tuple(int(b) for b in np.unravel_index(j, values.shape)) for j in order]
