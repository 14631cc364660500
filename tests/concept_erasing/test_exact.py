import pytest
import torch

from paperkit.concept_erasing import exact


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(500, 2, generator=generator, dtype=torch.float64)


def log_density(x, t, condition):
    abar = exact.alphas_cumprod()[t]
    variance = abar * exact.SPREAD**2 + 1 - abar
    means = torch.tensor(exact.MEANS, dtype=torch.float64)
    means = means if condition == exact.EMPTY else means[condition : condition + 1]
    joint = -((x[:, :1] - abar.sqrt() * means) ** 2) / (2 * variance)
    return joint.logsumexp(1) - x[:, 1] ** 2 / 2


@pytest.mark.parametrize("t", [10, 400, 900])
@pytest.mark.parametrize("condition", [1, exact.EMPTY])
def test_the_exact_prediction_is_the_gradient_of_the_density(noise, t, condition):
    x = noise[:50].clone().requires_grad_(True)
    (score,) = torch.autograd.grad(log_density(x, t, condition).sum(), x)
    eps = exact.exact_eps(x.detach(), t, condition)
    wanted = -(1 - exact.alphas_cumprod()[t]).sqrt() * score
    torch.testing.assert_close(eps, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [10, 400, 900])
def test_the_guidance_term_is_the_gradient_of_a_classifier(noise, t):
    x, h = noise[:50], 1e-6
    step = torch.tensor([[h, 0.0]])

    def log_posterior(points):
        return log_density(points, t, 1) - log_density(points, t, exact.EMPTY)

    slope = (log_posterior(x + step) - log_posterior(x - step)) / (2 * h)
    g = exact.exact_eps(x, t, 1) - exact.exact_eps(x, t, exact.EMPTY)
    wanted = -(1 - exact.alphas_cumprod()[t]).sqrt() * slope
    torch.testing.assert_close(g[:, 0], wanted, rtol=1e-5, atol=1e-6)
    assert g[:, 1].abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1, 3, 7.5])
def test_the_surgical_ideal_is_the_frozen_model_of_the_alternative(noise, scale):
    ours = exact.sample_ideal("surgical", scale, noise)
    theirs = exact.sample_ideal("frozen", scale, noise, erase=2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    before = exact.sample_ideal("frozen", scale, noise)
    torch.testing.assert_close(ours[:, 1], before[:, 1], rtol=0, atol=1e-12)
    assert (exact.classes_of(ours) == 2).all()


def test_the_other_ideals(noise):
    for scale in (3, 7.5):
        assert exact.off_support(exact.sample_ideal("ESD", scale, noise)).double().mean() > 0.9
    none = exact.sample_ideal("surgical, no alternative", 3, noise)
    again = exact.sample_ideal("surgical, no alternative", 7.5, noise)
    torch.testing.assert_close(none, again)  # the scale multiplies nothing
    share = float((exact.classes_of(none) == 1).double().mean())
    assert share == pytest.approx(0.25, abs=0.06)


def test_a_layout_that_depends_on_the_class_moves(noise):
    """Layout y ~ N(0.5 k, 1) in class k: even the frozen swap of neighbours moves y by 0.5."""
    ours = exact.sample_ideal("surgical", 1, noise, layout_slope=0.5)
    before = exact.sample_ideal("frozen", 1, noise, layout_slope=0.5)
    shift = ours[:, 1] - before[:, 1]
    torch.testing.assert_close(shift, torch.full_like(shift, float(shift.mean())))
    assert float(shift.mean()) == pytest.approx(0.5, abs=0.05)


def test_the_student_knows_the_classes(noise):
    student = exact.load_student()
    for c in range(4):
        points = exact.sample_student(student, c, 3, noise[:200])
        assert (exact.classes_of(points) == c).double().mean() > 0.99


def test_fine_tuning_touches_only_the_copy(noise):
    student = exact.load_student()
    before = {name: p.clone() for name, p in student.named_parameters()}
    points = exact.record_points(student, n=16, generator=torch.Generator().manual_seed(0))
    runs = [exact.fine_tune(student, points, "surgical", n_steps=5, seed=1,
                            parameters=("prompt",)) for _ in range(2)]  # fmt: skip
    for name, p in student.named_parameters():
        assert torch.equal(p, before[name])
        assert torch.equal(runs[0].get_parameter(name), runs[1].get_parameter(name))
        assert torch.equal(runs[0].get_parameter(name), p) == (not name.startswith("prompt"))
    fresh = student(points.x, points.t, torch.full((len(points.x),), 2))
    torch.testing.assert_close(points.alternative, fresh)


def test_bad_input(noise):
    with pytest.raises(ValueError, match="condition"):
        exact.exact_eps(noise, 3, 9)
    with pytest.raises(ValueError, match="name must be one of"):
        exact.sample_ideal("magic", 3, noise)
