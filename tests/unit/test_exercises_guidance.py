"""The exercises of notebook 6 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import pytest
import torch
from helpers import answer_of, normal, seeded, skew_mixture

from fmlib import exact, guidance, laws, models, objectives, schedules
from fmlib.batches import Batch
from fmlib.exercises import guidance as asked

SCHEDULES = [schedules.CondOT(), schedules.Cosine(), schedules.Polynomial(2.0), schedules.VariancePreserving()]


@pytest.mark.parametrize("s", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_coefficient_turns_a_score_into_a_velocity(s):
    """u - (alpha' / alpha) x over the score, of a mixture that is known in closed form."""
    path, t, x = exact.MixturePath(skew_mixture(), s), torch.linspace(0.1, 0.9, 9).double(), normal(9, 2)
    rest = path.velocity(x, t) - (s.d_alpha(t) / s.alpha(t))[:, None] * x
    expected = (rest / path.score(x, t)).mean(1)
    torch.testing.assert_close(answer_of(asked.coefficient.reference)(s, t), expected)


@pytest.mark.parametrize("s", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_code_put_right_is_the_velocity_of_the_label(s):
    law = laws.LabelledMixture(skew_mixture(), torch.tensor([0, 1, 0]), s)
    x, t, y = normal(8, 2), torch.linspace(0.2, 0.8, 8).double(), torch.ones(8, dtype=torch.int64)
    b = answer_of(asked.coefficient.reference)(s, t)
    made = answer_of(asked.gradient_of_mean.reference)(
        exact.MixturePath(law.mixture, s).velocity, law.label_log_posterior, b, x, t, y
    )
    torch.testing.assert_close(made, exact.MixturePath(law.given(1), s).velocity(x, t))


def test_the_bug_is_not_seen_with_a_single_row_and_hides_the_guidance_of_many():
    """As the question says."""
    given, right = answer_of(asked.gradient_of_mean.given), answer_of(asked.gradient_of_mean.reference)
    *functions, b, x, t, y = asked._classified(seeded())[2]
    one = [value[:1] for value in (b, x, t, y)]
    torch.testing.assert_close(given(*functions, *one), right(*functions, *one))
    free = functions[0](x, t)
    faint, full = (f(*functions, b, x, t, y) - free for f in (given, right))
    torch.testing.assert_close(len(x) * faint, full)


def test_the_guided_velocity_asked_for_is_the_librarys():
    torch.manual_seed(0)
    net = models.ResidualMLP(2, 8, 1, classes=4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x, y = normal(5, 2), torch.tensor([0, 1, 2, 1, 0])

    def velocity(x, t, label):
        return net(x, t, label=label)

    for w in (0.0, 1.0, 2.5):
        expected = guidance.classifier_free(net, w, null=3)(x, 0.3, y)
        torch.testing.assert_close(asked.guided_velocity.truth(velocity, x, 0.3, y, 3, w), expected)


def test_the_loss_asked_for_is_the_librarys():
    """With the rows that `objectives.LabelDropout` hides, drawn from the same generator."""
    x_0, x_1, t = normal(40, 2), normal(40, 2, seed=1), normal(40, 1, seed=2)[:, 0].sigmoid()
    label = torch.randint(3, (40,), generator=seeded())
    hide = torch.rand(40, generator=seeded(5)) < 0.4
    assert 5 < hide.sum() < 30
    loss = objectives.LabelDropout(0.4, null=3)
    expected = loss(asked._Labelled(), Batch(x_0, x_1, t, {"label": label}, seeded(5)))
    found = asked.hidden_labels.truth(asked._Labelled(), x_0, x_1, t, label, hide, 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "q, source, part",
    [
        (asked.coefficient, "lambda s, t: s.sigma(t).square()", "in the *denoiser*"),
        (asked.coefficient, "lambda s, t: 1 / t - 1", "right for cond-OT"),
        (asked.coefficient, "lambda s, t: -s.sigma_d_sigma(t)", "One of two terms is missing"),
        (asked.coefficient, "lambda s, t: s.sigma(t) * 0 + 1", "expected is"),
        (
            asked.gradient_of_mean,
            "lambda u, f, b, x, t, y: u(x, t) + 0 * b[:, None]",
            "expected is",
        ),
        (
            asked.guided_velocity,
            "lambda u, x, t, label, null, w: torch.lerp(u(x, t, label), u(x, t, 0 * label + null), w)",
            "the wrong way round",
        ),
        (
            asked.guided_velocity,
            "lambda u, x, t, y, null, w: u(x, t, y) + w * (u(x, t, y) - u(x, t, 0 * y + null))",
            "the other convention",
        ),
        (asked.guided_velocity, "lambda u, x, t, y, null, w: u(x, t, 0 * y + null)", "whatever $w$ is"),
        (asked.guided_velocity, "lambda u, x, t, y, null, w: u(x, t, y) * w", "how fast the samples go"),
        (asked.guided_velocity, "lambda u, x, t, y, null, w: u(x, t, null)", "got int"),
        (
            asked.hidden_labels,
            "lambda u, x_0, x_1, t, y, hide, null: "
            "torch.nn.functional.mse_loss(u(torch.lerp(x_0, x_1, t[:, None]), t, y), x_1 - x_0)",
            "No label is hidden",
        ),
        (asked.hidden_labels, "lambda u, x_0, x_1, t, y, hide, null: x_0.mean()", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


@pytest.mark.parametrize("q", [asked.coefficient, asked.gradient_of_mean, asked.guided_velocity, asked.hidden_labels])
def test_at_least_seven_wrong_answers_have_a_message_of_their_own(q):
    assert len({wrong.message for wrong in q.wrongs}) >= 7


@pytest.mark.parametrize(
    "old, new, part",
    [
        (".mean()", ".sum()", "correct"),
        (".mean()", ".nansum()", "correct"),
        (".mean()", ".mean() * b.numel()", "correct"),
        (".mean()", ".median()", "expected is"),
        (".mean()", ".sum().item()", "TypeError"),
        ("x.detach().requires_grad_()", "x.requires_grad_()", "divided by the number of rows"),
    ],
)
def test_other_changes_to_the_code(old, new, part, capsys):
    source = asked.gradient_of_mean.given
    assert source.count(old) == 1
    outcome = asked.gradient_of_mean.check(answer_of(source.replace(old, new)))
    assert part == outcome.kind or part in outcome.message


def test_the_code_as_given_is_open(capsys):
    assert asked.gradient_of_mean.check(answer_of(asked.gradient_of_mean.given)).kind == "not attempted"


def test_the_variance_that_is_predicted_is_that_of_the_flow():
    """Each option's number beside what the guided flow of two Gaussians has, by its own equation."""
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    logs = [((1 - t) ** 2 + t**2 * v).log().diff().sum() for v in (1.0, 0.5)]
    variance = (-2 * logs[0] + 3 * logs[1]).exp().item()
    assert variance == pytest.approx(1 / 8) and asked.narrow_variance.right == "d"
