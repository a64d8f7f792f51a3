"""Exercises of notebook 13, discrete flows."""

import math

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong


def _data_sets(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, N, d, K in [(4, 6, 3, 4), (1, 5, 4, 3), (5, 8, 2, 5)]:
        x, data = torch.randint(K, (n, d), generator=draw), torch.randint(K, (N, d), generator=draw)
        cases.append((x, data, K, 0.1 + 0.8 * torch.rand(n, generator=draw, dtype=torch.float64)))
    return cases


def _by_bayes(x: Tensor, data: Tensor, K: int, t: Tensor) -> Tensor:
    """Word by word: the likelihood of each row of the data is a product over positions."""
    tables = []
    for word, k in zip(x.tolist(), t.tolist(), strict=True):
        table = torch.zeros(len(word), K, dtype=t.dtype)
        for row in data.tolist():
            likelihood = math.prod(k * (a == b) + (1 - k) / K for a, b in zip(word, row, strict=True))
            for i, token in enumerate(row):
                table[i, token] += likelihood
        tables.append(table / table[0].sum())
    return torch.stack(tables)


_POSTERIOR = """def answer(x, data, K, t):
    agree = (x[:, None] == data).sum(2)
    odds = torch.log(t + (1 - t) / K) - torch.log((1 - t) / K)
    weights = torch.softmax(agree * odds[:, None], 1)
    tokens = torch.nn.functional.one_hot(data, K).to(weights.dtype)
    return torch.einsum("bn,nik->bik", weights, tokens)"""
_ODDS = "torch.log(t + (1 - t) / K) - torch.log((1 - t) / K)"
_SOFTMAX = "torch.softmax(agree * odds[:, None], 1)"
_MEAN = 'torch.einsum("bn,nik->bik", weights, tokens)'

posterior = Function(
    key="discrete.posterior",
    number="13.1",
    task="write",
    question=(
        "Write the black box of the opening. `data`, integers of shape `(N, d)`, holds the words of a finite data set, "
        "all equally likely; the source is uniform on `K` tokens. For words `x`, `(batch, d)`, at times `t`, "
        "`(batch,)`, with $\\kappa_t=t$, return $P(X_1^i=k\\mid X_t=x)$, of shape `(batch, d, K)`, in the dtype of "
        "`t`. Given $x_1$, a position shows *its* token with probability $t+\\frac{1-t}K$, and each other one with "
        "$\\frac{1-t}K$: so it is enough to count in how many positions `x` agrees with each row of the data. Below, "
        "your function draws digits."
    ),
    given="""def answer(x, data, K, t):
    agree = ____  # of each word with each row of the data
    odds = ____  # how much likelier one agreement makes a row, at each t
    weights = ____  # of the rows, for each word
    tokens = ____  # of the rows, as 0 and 1, (N, d, K)
    return ____""",
    reference=_POSTERIOR,
    why=(
        "The likelihood of a row that agrees in $m$ of $d$ positions is $(t+\\frac{1-t}K)^m(\\frac{1-t}K)^{d-m}$. "
        "Only the power $m$ of the *ratio* matters, the rest cancels, so the weights are a softmax of $m$ times the "
        "log of the ratio. The posterior of a position is the weighted share of rows with each token there. It is "
        "attention once more, as in notebook 2: the word asks, the data answer."
    ),
    hints=(
        "`x[:, None] == data` compares every word with every row, position by position, in shape `(batch, N, d)`.",
        "By what factor is a row more likely for each position in which it agrees?",
        "$(t+\\frac{1-t}K)\\big/\\frac{1-t}K$. The weights are a softmax over the rows of the data.",
        "`torch.nn.functional.one_hot(data, K)` has shape `(N, d, K)`; average it with the weights.",
    ),
    arguments=("x", "data", "K", "t"),
    truth=_by_bayes,
    cases=_data_sets,
    wrongs=(
        Wrong(
            _POSTERIOR.replace(_ODDS, "torch.log(t) - torch.log(1 - t)"),
            "Your ratio is $t/(1-t)$. But the source may show the right token by chance: a position agrees with "
            "probability $t+\\frac{1-t}K$, and shows each *other* token with $\\frac{1-t}K$.",
        ),
        Wrong(
            _POSTERIOR.replace(_ODDS, "torch.log(t) - torch.log((1 - t) / K)"),
            "Your ratio is $t\\big/\\frac{1-t}K$. The source may show the right token by chance, which adds "
            "$\\frac{1-t}K$ to the numerator.",
        ),
        Wrong(
            _POSTERIOR.replace(_SOFTMAX, "torch.softmax(0 * agree * odds[:, None], 1)"),
            "This is the prior: every row of the data counts alike, and `x` is not looked at.",
        ),
        Wrong(
            _POSTERIOR.replace(_SOFTMAX, "torch.softmax(agree.to(t.dtype), 1)"),
            "Each agreement counts as a factor $e$ here, at all times. By how much does it make a row more likely at "
            "time $t$?",
        ),
        Wrong(
            _POSTERIOR.replace(_ODDS, "torch.log(1 + K * t)"),
            "Your ratio is $1+Kt$. Divide by $(1-t)/K$, not by $1/K$: late, an agreement counts for more.",
        ),
        Wrong(
            _POSTERIOR.replace(_ODDS, "torch.log(t + (1 - t) / K)"),
            "Where a row agrees you have its likelihood, but where it does not you count 1 in place of $\\frac{1-t}K$.",
        ),
        Wrong(
            _POSTERIOR.replace(_SOFTMAX, "torch.softmax(-agree * odds[:, None], 1)"),
            "A sign is wrong: the rows that agree *less* get the larger weight.",
        ),
        Wrong(
            _POSTERIOR.replace(_SOFTMAX, "torch.softmax(agree * odds[:, None], 0)"),
            "Your weights sum to 1 over the batch. For each word they must sum to 1 over the rows of the data.",
        ),
        Wrong(
            _POSTERIOR.replace(
                _SOFTMAX, "torch.nn.functional.one_hot((agree * odds[:, None]).argmax(1), len(data)).to(t.dtype)"
            ),
            "You take the best row alone. It is the most likely one; the others have their shares too.",
        ),
        Wrong(
            _POSTERIOR.replace(_SOFTMAX, "torch.exp(agree * odds[:, None])"),
            "The weights do not sum to 1: divide by their sum over the rows, or take a softmax.",
        ),
        Wrong(
            _POSTERIOR.replace(
                _MEAN,
                "t[:, None, None] * "
                + _MEAN
                + " + (1 - t)[:, None, None] * torch.nn.functional.one_hot(x, K).to(weights.dtype)",
            ),
            "You mix the posterior with the present token. $P(X_1^i=k\\mid X_t=x)$ is the law of the *end*; the coin "
            "comes in when a step is taken.",
        ),
    ),
    rights=(
        "def answer(x, data, K, t):\n    ratio = 1 + K * t / (1 - t)\n"
        "    weights = ratio[:, None] ** (x.unsqueeze(1) == data).sum(-1)\n"
        "    weights = weights / weights.sum(1, keepdim=True)\n"
        "    return (weights[:, :, None, None] * torch.nn.functional.one_hot(data, K)).sum(1)",
        "def answer(x, data, K, t):\n    t = t[:, None, None]\n"
        "    one = torch.where(x[:, None] == data, t + (1 - t) / K, (1 - t) / K)\n"
        "    weights = one.log().sum(2).softmax(1)\n"
        "    return torch.stack([(weights @ (data == k).to(weights.dtype)) for k in range(K)], 2)",
        "def answer(x, data, K, t):\n    out = t.new_zeros(*x.shape, K)\n    for b in range(len(x)):\n"
        "        p = torch.ones_like(t[:1]).expand(len(data)).clone()\n        for i in range(x.shape[1]):\n"
        "            p = p * (t[b] * (data[:, i] == x[b, i]) + (1 - t[b]) / K)\n        for i in range(x.shape[1]):\n"
        "            out[b, i].index_add_(0, data[:, i], p / p.sum())\n    return out",
    ),
    other_wrongs=(
        (_POSTERIOR.replace("agree * odds", "2 * agree * odds"), "expected is"),
        (_POSTERIOR.replace(_MEAN, _MEAN + ".sum(2)"), "is expected"),
        (_POSTERIOR.replace(_MEAN, _MEAN + ".float()"), "Keep the dtype"),
    ),
)

equal_pair = Choice(
    key="discrete.equal_pair",
    number="13.2",
    task="predict",
    question=(
        "Words of two letters that are always equal: aa or bb, half each. Masks, steps of equal length, and the "
        "*exact* posterior. How often do the two letters of a drawn word differ, in one step and in four?"
    ),
    options={
        "a": (
            "never, and never: the posterior is exact",
            "It is the posterior of *each position*. Two that are revealed in the same step are drawn from two "
            "separate coins.",
        ),
        "b": (
            "1/2, and 1/4",
            "In four steps a quarter of the words has both letters revealed in the same step. But two coins agree "
            "every other time.",
        ),
        "c": ("1/2, and 1/8", ""),
        "d": (
            "1/2, and 1/32",
            "Both fall into the *first* step with probability 1/16. There are four steps in which they may meet.",
        ),
    },
    after="Then run the cell below, and open the box.",
    why=(
        "The steps of the two positions are independent and even, so they are the same with probability $1/n$. Then "
        "both are drawn from a fair coin, and differ every other time: $\\frac1{2n}$. Else the second letter is drawn "
        "when the first is known, and is right."
    ),
    hints=(
        "In one step both letters are drawn at once, each from the posterior given two masks. What is it?",
        "With what probability are both revealed in the *same* of four steps?",
    ),
)


class _Posterior:
    """Stands in for a network that sees which tokens are revealed: each position depends on the whole word."""

    def __init__(self, K: int):
        self.K = K

    def __call__(self, x: Tensor) -> Tensor:
        d = x.shape[1]
        seen = (x + 1.0).to(torch.float64) * (torch.arange(d) + 1.3)
        place, token = torch.meshgrid(torch.arange(d), torch.arange(self.K), indexing="ij")
        return (2 * torch.sin(1.7 * seen.sum(1)[:, None, None] + 1.3 * place + 2.1 * token)).softmax(2)

    def __repr__(self) -> str:
        return "posterior"


def _orders(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, d, K in [(6, 4, 3), (1, 3, 5), (8, 5, 2)]:
        order = torch.rand(n, d, generator=draw).argsort(1)
        u = torch.rand(n, d, generator=draw, dtype=torch.float64)
        cases.append((_Posterior(K), torch.full((n, d), K), order, u))
    return cases


def _one_after_another(posterior, x: Tensor, order: Tensor, u: Tensor) -> Tensor:
    """Row by row, by going up the cumulative sums until they pass u."""
    made = x.clone()
    for b in range(len(x)):
        for place, level in zip(order[b].tolist(), u[b].tolist(), strict=True):
            p, token, total = posterior(made[b : b + 1])[0, place].tolist(), 0, 0.0
            while token < len(p) - 1 and total + p[token] <= level:
                total, token = total + p[token], token + 1
            made[b, place] = token
    return made


_EVENTS = """def answer(posterior, x, order, u):
    x, rows = x.clone(), torch.arange(len(x))
    for j in range(x.shape[1]):
        i = order[:, j]
        p = posterior(x)[rows, i]
        x[rows, i] = (p.cumsum(1) <= u[:, j : j + 1]).sum(1)
    return x"""

by_events = Function(
    key="discrete.by_events",
    number="13.3",
    task="write",
    question=(
        "Draw words by their events. `x`, of shape `(n, d)`, holds masks only; `posterior(x)` returns the posteriors, "
        "`(n, d, K)`, for words of which some tokens are revealed. Row `b` reveals the position `order[b, 0]` first, "
        "then `order[b, 1]`, and so on (`order` has shape `(n, d)`). The `j`-th token that is revealed is drawn with "
        "the number `u[:, j]` from $[0,1)$, by inversion: it is the number of cumulated probabilities "
        "$p_0,\\,p_0+p_1,\\dots$ that are at most $u$. Return the words, integers of shape `(n, d)`, and leave `x` "
        "as it is. Below, your function draws a figure."
    ),
    given="""def answer(posterior, x, order, u):
    x, rows = x.clone(), torch.arange(len(x))
    for j in range(x.shape[1]):
        i = ____
        p = ____  # of the position i of each row, (n, K)
        x[rows, i] = ____
    return x""",
    reference=_EVENTS,
    why=(
        "By the product rule $q(x)=\\prod_jq(x^{i_j}\\mid x^{i_1},\\dots,x^{i_{j-1}})$ for any order of the positions: "
        "each token is drawn knowing all before, so nothing is drawn at once, and the law is exact. It takes $d$ calls "
        "of the network, whatever the length of the vocabulary, and never the time."
    ),
    hints=(
        "`order[:, j]` is the position that each row reveals in turn `j`.",
        "`posterior(x)[rows, i]` takes from row `b` the posterior of its position `i[b]`. It must be asked anew in "
        "each turn.",
        "`(p.cumsum(1) <= u[:, j : j + 1]).sum(1)` is the token.",
    ),
    arguments=("posterior", "x", "order", "u"),
    truth=_one_after_another,
    cases=_orders,
    wrongs=(
        Wrong(
            _EVENTS.replace("    for j", "    table = posterior(x)\n    for j").replace("posterior(x)[", "table["),
            "The posterior is asked once, when all is masked. No token knows of another then: this is one parallel "
            "step. Ask it in each turn.",
        ),
        Wrong(
            _EVENTS.replace("i = order[:, j]", "i = torch.full_like(order[:, j], j)"),
            "You go from left to right. Each row has an order of its own: in turn `j` it reveals `order[:, j]`.",
        ),
        Wrong(
            _EVENTS.replace("(p.cumsum(1) <= u[:, j : j + 1]).sum(1)", "p.argmax(1)"),
            "You take the most likely token. All words with the same order are the same word then: draw it, with `u`.",
        ),
        Wrong(
            _EVENTS.replace("u[:, j : j + 1]", "u[rows, i][:, None]"),
            "You draw with the number of the *position*, `u[:, i]`. The number of the turn is `u[:, j]`.",
        ),
        Wrong(
            _EVENTS.replace("u[:, j : j + 1]", "u[:, :1]"),
            "All tokens of a word are drawn with the same number, so they depend on each other. In turn `j` take "
            "`u[:, j]`.",
        ),
        Wrong(
            _EVENTS.replace("order[:, j]", "order.argsort(1)[:, j]"),
            "You inverted the order: `order[b, j]` is the position of turn `j`, not the turn of position `j`.",
        ),
        Wrong(
            _EVENTS.replace("order[:, j]", "order[:, -1 - j]"),
            "You go through the order from its end to its start. Turn `j` reveals `order[:, j]`.",
        ),
        Wrong(
            _EVENTS.replace("range(x.shape[1])", "range(x.shape[1] - 1)"),
            "One position of each word is still masked: there are as many turns as positions.",
        ),
        Wrong(
            _EVENTS.replace("<= u", "> u"),
            "You count the cumulated probabilities *above* `u`. The token is the number of those that are at most `u`.",
        ),
        Wrong(
            _EVENTS.replace("p.cumsum(1)", "p"),
            "You compare `u` with each probability. Inversion compares it with their *cumulated* sums.",
        ),
        Wrong(
            _EVENTS.replace(
                "x[rows, i] = (p.cumsum(1) <= u[:, j : j + 1]).sum(1)",
                "x = (posterior(x).cumsum(2) <= u[:, j : j + 1, None]).sum(2)",
            ),
            "Every turn draws all positions anew. A token that is revealed stays; a turn reveals one more.",
        ),
    ),
    rights=(
        "def answer(posterior, x, order, u):\n    x = x.clone()\n    for i, v in zip(order.T, u.T):\n"
        "        p = posterior(x).gather(1, i[:, None, None].expand(-1, 1, posterior(x).shape[2]))[:, 0]\n"
        "        token = torch.searchsorted(p.cumsum(1), v[:, None].to(p.dtype).contiguous(), right=True)\n"
        "        x = x.scatter(1, i[:, None], token)\n    return x",
        "def answer(posterior, x, order, u):\n    for j in range(order.shape[1]):\n"
        "        here = torch.arange(x.shape[1]) == order[:, j, None]\n"
        "        token = (posterior(x).cumsum(-1) <= u[:, j, None, None]).sum(-1)\n"
        "        x = torch.where(here, token, x)\n    return x",
        "def answer(posterior, x, order, u):\n    out = []\n    for b in range(len(x)):\n"
        "        word = x[b:b + 1].clone()\n        for j, i in enumerate(order[b]):\n"
        "            word[0, i] = (posterior(word)[0, i].cumsum(0) <= u[b, j]).sum()\n        out.append(word)\n"
        "    return torch.cat(out)",
    ),
    other_wrongs=(
        (_EVENTS.replace("x, rows = x.clone(), torch", "rows = torch"), "changes its input x in place"),
        (_EVENTS.replace("return x", "return x.double()"), "int64 is expected"),
        (_EVENTS.replace("return x", "return x[:, :1]"), "is expected"),
        (_EVENTS.replace("return x", "return 0 * x"), "expected is"),
    ),
)


def _half_revealed(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, d, K in [(7, 4, 3), (1, 3, 5), (9, 5, 4)]:
        p = torch.randn(n, d, K, generator=draw, dtype=torch.float64).mul(1.5).softmax(2)
        x = torch.randint(K, (n, d), generator=draw)
        hidden = torch.rand(n, d, generator=draw) < 0.6
        hidden[:, -2:] = True  # at least two are left to choose from
        cases.append((p, x.masked_fill(hidden, K), K, torch.rand(n, d, generator=draw, dtype=torch.float64)))
    return cases


def _surest_first(p: Tensor, x: Tensor, mask: int, u: Tensor) -> Tensor:
    made = x.clone()
    for b, word in enumerate(x.tolist()):
        _, place = max((p[b, i].max().item(), i) for i, token in enumerate(word) if token == mask)
        token, passed = 0, p[b, place, 0].item()
        while passed <= u[b, place] and token < p.shape[2] - 1:
            token += 1
            passed += p[b, place, token].item()
        made[b, place] = token
    return made


_SUREST = """def answer(p, x, mask, u):
    token = (p.cumsum(-1) <= u[..., None]).sum(-1)
    sure = {}
    sure = torch.where(x == mask, sure, -torch.inf)
    i, rows = sure.argmax(1), torch.arange(len(x))
    x = x.clone()
    x[rows, i] = token[rows, i]
    return x"""
_DRAWN = _SUREST.format("p.gather(-1, token[..., None])[..., 0]")
_LARGEST = _SUREST.format("p.amax(-1)")

surest = Function(
    key="discrete.surest",
    number="13.4",
    task="find the bug",
    question=(
        "Somebody reveals one masked position a step, first the one of which the network is surest. `p`, of shape "
        "`(n, d, K)`, holds the posteriors, `x` the words, in which `mask` stands where nothing is revealed; each "
        "position draws its token with its number of `u`, `(n, d)`, by inversion. The network is perfect, one token "
        "comes at a time, and yet the law is wrong. Put it right: the position with the largest *probability* that a "
        "token has there is revealed, with the token that is drawn for it."
    ),
    given=_DRAWN,
    reference=_LARGEST,
    why=(
        "`p.gather(-1, token)` is the probability of the token that was *drawn*. A position that has drawn a rare "
        "token waits, is asked again in the next step, and draws another one: rare tokens are drawn until they are "
        "likely. Choose the position by what is known before the draw, as `p.amax(-1)`, and any rule is exact."
    ),
    hints=(
        "When a position draws an unlikely token, what becomes of it?",
        "Which line uses what was drawn in order to *choose the position*?",
        "`p.amax(-1)` is known before anything is drawn.",
    ),
    arguments=("p", "x", "mask", "u"),
    truth=_surest_first,
    cases=_half_revealed,
    wrongs=(
        Wrong(
            _SUREST.format("-p.amax(-1)"),
            "You reveal the position of which the network is least sure. That is exact too; the question asks for the "
            "surest one.",
        ),
        Wrong(
            _LARGEST.replace("(p.cumsum(-1) <= u[..., None]).sum(-1)", "p.argmax(-1)"),
            "The position is right, and it gets its most likely token. It must be *drawn*, or the law has no spread.",
        ),
        Wrong(
            _LARGEST.replace("torch.where(x == mask, sure, -torch.inf)", "sure"),
            "The position is chosen among all, so that revealed tokens are drawn again. Only masked ones may be "
            "chosen.",
        ),
        Wrong(
            _SUREST.format("torch.special.xlogy(p, p).sum(-1)"),
            "By the smallest entropy: this is exact as well, as it does not look at the draw. The question asks for "
            "the largest probability.",
        ),
        Wrong(
            _SUREST.format("p.topk(2, -1).values.diff(dim=-1)[..., 0].abs()"),
            "By the margin between the two likeliest tokens: exact as well, as it does not look at the draw. The "
            "question asks for the largest probability.",
        ),
        Wrong(
            _SUREST.format("(-torch.arange(x.shape[1])).to(p.dtype).expand(x.shape)"),
            "From left to right: exact as well, as it does not look at the draw. The question asks for the largest "
            "probability.",
        ),
        Wrong(
            "def answer(p, x, mask, u):\n    token = (p.cumsum(-1) <= u[..., None]).sum(-1)\n"
            "    return torch.where(x == mask, token, x)",
            "You reveal all positions at once, which is the parallel step. One of each row is asked for.",
        ),
        Wrong(
            _LARGEST.replace("x == mask", "x != mask"),
            "You choose among the revealed positions. Those that still hold the mask are to be chosen from.",
        ),
        Wrong(
            _SUREST.format("-p.gather(-1, token[..., None])[..., 0]"),
            "You prefer rare tokens now, where likely ones were preferred. The choice still looks at the draw.",
        ),
    ),
    rights=(
        _SUREST.format("p.max(dim=-1).values"),
        "def answer(p, x, mask, u):\n    hidden = x == mask\n"
        "    here = torch.where(hidden, p.amax(2), 0 * p[..., 0]).argmax(1, keepdim=True)\n"
        "    row = p.gather(1, here[..., None].expand(-1, 1, p.shape[2]))[:, 0]\n"
        "    token = (row.cumsum(1) <= u.gather(1, here)).sum(1, keepdim=True)\n    return x.scatter(1, here, token)",
        "def answer(p, x, mask, u):\n    out = x.clone()\n    for b in range(len(x)):\n"
        "        free = [i for i in range(x.shape[1]) if x[b, i] == mask]\n"
        "        i = max(free, key=lambda i: p[b, i].max().item())\n"
        "        out[b, i] = int(torch.searchsorted(p[b, i].cumsum(0), u[b, i], right=True))\n    return out",
    ),
    other_wrongs=(
        (_LARGEST.replace("    x = x.clone()\n", ""), "changes its input x in place"),
        (_LARGEST.replace("return x", "return x[rows, i]"), "is expected"),
        (_LARGEST.replace("return x", "return 0 * x"), "expected is"),
    ),
)

corrector = Choice(
    key="discrete.corrector",
    number="13.5",
    task="predict",
    question=(
        "The posterior is exact, the source is a mask. Compare 16 steps with 8 steps and 8 correctors of the best "
        "strength, each of which costs a call too. Which law is nearer to $q$?"
    ),
    options={
        "a": (
            "that with correctors: they repair tokens which were drawn at once",
            "They do repair them. So do more steps, which let fewer tokens be drawn at once to begin with; measure "
            "which of the two does more.",
        ),
        "b": ("that of 16 steps", ""),
        "c": (
            "both are the same: with an exact posterior nothing is left to correct",
            "The posterior is exact for each position, but eight or sixteen steps draw several at once: both laws are "
            "wrong.",
        ),
        "d": (
            "that with correctors, since these leave $p_t$ as it is",
            "They do so where $p_t$ is reached, in continuous time. A corrector in one step draws several positions "
            "at once, as every step does.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "A corrector of strength $w$ is itself a parallel step, and pays for the positions that it redraws at once. "
        "With masks and a perfect network a step is the better use of a call, at every budget tried. With a uniform "
        "source and few steps it is the other way round."
    ),
    hints=(
        "How many positions does one corrector of strength $w$ redraw, and do they know of each other?",
        "The order of the steps is 1: what do twice as many steps do to the error?",
    ),
)

clamped = Choice(
    key="discrete.clamped",
    number="13.6",
    task="break it",
    question=(
        "The first letter is known. Put it in place at $t=0$, never redraw it, and run the sampler with the exact "
        "posterior for the others. With masks the total variation to the law *given that letter* halves from 64 to 128 "
        "steps. What does it do with the *uniform* source?"
    ),
    options={
        "a": (
            "it halves as well: the order is 1 for both sources",
            "It is for drawing $q$. Here the posterior is asked a question that it does not understand: whether a "
            "letter that is *held* is noise.",
        ),
        "b": ("it stays nearly as it is", ""),
        "c": (
            "it is zero in both cases, since the posterior is exact",
            "Letters that are drawn in one step do not know of each other, so it is not zero for any number of steps.",
        ),
        "d": (
            "it halves twice, as one position less is drawn",
            "One position less helps a little, by a factor. Does it go to zero at all?",
        ),
    },
    after="Then run the cell below, and open the box.",
    why=(
        "Under the uniform source any letter seen at time $t$ is noise with a probability that starts at 1. The "
        "posterior listens to the held letter as to one that just happens to stand there, so for most of the way it "
        "draws the others as if it were not known. Smaller steps do not change what it believes. A mask never lies: "
        "what is revealed is true."
    ),
    hints=(
        "At time $t$, with what probability does the network take a letter for noise?",
        "Does this depend on the number of steps?",
    ),
)
