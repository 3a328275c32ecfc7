"""DAGER: batches of text, exactly, by testing tokens against what they leave in an attention's gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensors
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update, noise_floor
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.text.encoder import search_whole
from fedpriv_attacks.text.exchange import exchange
from fedpriv_attacks.text.prefixes import grow, token_table
from fedpriv_attacks.text.rows import moved_tokens, sparsified, tokens_by_place
from fedpriv_attacks.text.span import ROOM, Reader, Span, input_room, read_span
from fedpriv_attacks.text.targets import Targets, find_targets

Count = Annotated[int, Field(ge=1)]

#: From what gap between inputs and errors on the tests are taken to be sharp.
CLEAR = 10.0
#: Distance of a replayed update from the one observed, relative to its length and in units of the model's precision, up
#: to which a finding is called exact: about a hundred times what the true batch leaves, and far below one wrong token.
EXACT = 200.0


class DAGER(Attack):
    """Sequences of tokens from the gradients of self-attention.

    Petrov, Dimitrov, Baader, Müller, Vechev 2024, "DAGER: Exact Gradient Inversion for Large Language Models",
    NeurIPS, arXiv 2405.15586. The gradient of a kernel that inputs X are multiplied with is X^T D, so inputs of the
    batch lie in the span of its columns, and others do not while there are fewer independent inputs than the width.
    At the first layer every token of the vocabulary is tested at every place. A decoder's sequences are then grown
    from the first place on, each longer prefix tested against the second layer's gradient; an encoder's are searched
    for whole. Update, sum of updates and batch are the same to it: the span is that of all their tokens.

    What differs from the paper: sequences are tested against the last kernel of the first block's dense part, where the
    model has one, whose inputs have four times the width's dimensions and depend on the sequence through one attention;
    where tokens can be told by place but not which belong together, replays sort them (`exchange.py`). The kernels of
    keys and values, which see the same inputs, are tested together with the queries' (the first place of a decoder
    leaves no trace in the queries); ranks and thresholds follow from the spectrum of the errors and the chance of
    random directions rather than from tolerances set by model and batch; sequences' targets, their repetitions and a
    last token that is only a target are solved for (`targets.py`), and the whole is replayed: only what the replay
    confirms is called exact.

    What it takes, `extra["condition"]` says before the search: the most tokens that can be behind the update and the
    dimensions of the inputs, of which the former must be fewer (`promised`, where that is so for certain), the ranks
    that the layers show, and how many of the vocabulary pass by chance. With
    several local steps the inputs drift, and the tests with them: ranks are then cut at the number of tokens, and the
    weights half-way are tried as well.
    """

    name: ClassVar[str] = "dager"
    paper: ClassVar[str] = "Petrov, Dimitrov, Baader, Müller, Vechev 2024, arXiv 2405.15586"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    rows: Literal["use", "ignore"] = Field(
        default="use",
        description="`use` leaves out tokens whose row of the embedding did not move, where its gradient shows that; "
        "`ignore` goes by attention alone, as the paper does.",
    )
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=120.0,
        description="wall-clock after which the search ends with what it has. The same seed gives the same finding "
        "unless that happens.",
    )
    beam: Count | None = Field(
        default=None,
        description="prefixes grown side by side; None takes 4 a sequence and at least 32, or 2 a sequence where "
        "errors blur the test.",
    )
    starts: Count = Field(default=64, description="starts of an encoder's search side by side.")
    chance: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="how many tokens may pass the first layer's test by chance at a place, on average."
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Tests, searches, solves for the targets and replays.

        Returns:
          A Finding with `x` `[m, length]`, token numbers as float32, m at most the number of sequences, and `y` their
          targets. Its objective is the replayed update's squared distance from the one observed, relative to the
          latter's square, where the view can replay; else not-a-number. `extra` has `exact` (whether the replay
          confirms it), `reason` (why not, else ""), `warnings` (the same for a user), `condition` (see the class),
            `tested` (sequences), `distances` (of
          the sequences from the second layer's span) and `candidates` (tokens by place that passed the first test).

        Raises:
          CapabilityError: the model has no self-attention or embedding, its attentions did not move, or the client's
            optimizer scales every weight on its own.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        deadline = time.monotonic() + self.seconds
        model = view.model
        if model.embedding is None or not model.attention:
            raise CapabilityError(
                f"attack 'dager' tests tokens against the gradients of self-attention, but model '{model.name}' "
                + ("has none" if model.embedding is not None else "takes no tokens")
                + "; use a model such as 'gpt' or 'bert'"
                + ("" if model.embedding is None else ", or 'token_set', which reads the embedding's rows")
            )
        check_linear(view.procedure)
        checked_update(view)
        n = None if view.num_examples is None else view.total_examples
        points = _points(view)
        best: _Found | None = None
        for flat in points:
            found = self._search(view, flat, n, seed, deadline)
            found = _with_targets(view, found, n)
            if found.options and not found.misfit <= _exact(view) and Capability.SINGLE_STEP in view.capabilities:
                found = self._exchanged(view, found, n, seed, deadline)
            if best is None or found.rank() < best.rank():
                best = found
            if best.misfit <= _exact(view) or time.monotonic() > deadline:
                break
        assert best is not None
        reasons = best.reasons
        if not np.isfinite(best.misfit):
            reasons = [*reasons, "the view cannot replay, so nothing confirms it"]
        elif best.misfit > _exact(view):
            reasons = [*reasons, f"the replayed update is off by {np.sqrt(best.misfit):.1e} of its length"]
        exact = np.isfinite(best.misfit) and best.misfit <= _exact(view)
        condition = best.extra["condition"]
        warnings = [] if exact else _warnings(condition, Capability.SINGLE_STEP in view.capabilities)
        x = best.x if n is None else best.x[:n]
        y = best.y if n is None or best.y is None else best.y[:n]
        return Finding(
            x=x.astype(np.float32),
            y=y,
            objective=best.misfit,
            seconds=time.perf_counter() - began,
            measures={"rank": float(condition["ranks"][0])},
            extra={
                "exact": bool(exact),
                "reason": "" if exact else "; ".join(reasons),
                "warnings": warnings,
                **best.extra,
            },
        )

    def _search(self, view: View, flat: np.ndarray, n: int | None, seed: int, deadline: float) -> _Found:
        model = view.model
        weights = [tf.constant(w) for w in model.spec.unflatten_numpy(flat)]
        (length,), padding = model.input_shape, getattr(view.data_kind, "padding", None)
        vocabulary = model.spec.shapes[model.embedding.table][0]  # type: ignore[union-attr]
        most = None if n is None else n * length
        layers = _Layers.of(view, weights, vocabulary, length, n)
        first, second, reading = layers.span, layers.whole, layers.reading
        tokens = np.arange(vocabulary)
        moved = moved_tokens(view) if self.rows == "use" else None
        if moved is not None:
            tokens = moved
        tokens = tokens[tokens != padding] if padding is not None else tokens
        condition: dict[str, Any] = {
            "tokens_at_most": most,
            "room": first.room,
            "ranks": [first.rank] + ([] if second is None else [second.rank]),
            "gaps": [first.gap] + ([] if second is None else [second.gap]),
            "spare": [first.spare] + ([] if second is None else [second.spare]),
            "promised": most is not None
            and most < first.room
            and Capability.SINGLE_STEP in view.capabilities
            and not sparsified(view),
            "holds": first.spare > 0 and (second is None or second.spare > 0) and not sparsified(view),
            "vocabulary": len(tokens),
        }
        candidates, near = self._candidates(layers.first, weights, first, tokens, length)
        condition["chance"] = first.chance(float(np.max(near))) * len(tokens) if len(near) else 1.0
        reasons = []
        if n is None:
            reasons.append("how many texts there are is unknown, and one was looked for")
        if sparsified(view):
            reasons.append("a defense leaves coordinates out, so that gradients span other directions than the inputs")
        for span, which in ((first, "first"), (second, "second")):
            if span is not None and span.spare <= 0:
                reasons.append(
                    f"the {which} attention's gradient shows at least {span.rank} independent inputs in {span.room} "
                    "dimensions, so every token passes its test: there are too many tokens for this width, or noise"
                )
        extra: dict[str, Any] = {"condition": condition, "candidates": [len(c) for c in candidates]}
        options: list[np.ndarray] = []
        causal = all(a.causal for a in model.attention)
        if layers.second is None or second is None:
            found_tokens, distances, tested, late = [], [], 0, False
            if n == 1 and all(len(c) == 1 for c in candidates):
                found_tokens, distances = [np.array([c[0] for c in candidates], np.int32)], [float(np.max(near))]
            reasons.append("no second gradient shows which tokens belong together")
        elif causal and reading == "all":
            # Where no gap sets inputs apart, as after several steps, near misses pass too, and only the nearest go on.
            beam = self.beam or (max(32, 4 * (n or 8)) if second.gap > CLEAR else 2 * (n or 16))
            if not model.attention[0].others and len(candidates[0]) < len(tokens):
                candidates[0] = tokens  # the first place leaves nothing in the queries' gradient
            grown = grow(layers.second, weights, second, candidates, n or 1, beam, deadline)
            found_tokens, distances, tested, late = grown.tokens, grown.distances, grown.tested, grown.late
            if grown.forced:
                reasons.append(f"no token passed the second attention's test at place {grown.forced[0] + 1}")
        else:
            if moved is not None:
                told = tokens_by_place(view, tokens)
                candidates = [c if t is None or not len(t) else t for c, t in zip(candidates, told, strict=True)]
                extra["candidates"] = [len(c) for c in candidates]
            whole = search_whole(
                layers.second, weights, second, reading, candidates,
                near_by_place(layers.first, first, weights, candidates, length), n or 1,
                padding, self.starts, deadline, seed,
            )  # fmt: skip
            found_tokens, distances, tested, late = whole.tokens, whole.distances, whole.tested, whole.late
            options = whole.options
        if late:
            reasons.append(f"the search ended after {self.seconds:g} s")
        extra |= {"tested": tested, "distances": [float(d) for d in distances]}
        order = np.argsort(distances, kind="stable")
        lengths = np.array([len(found_tokens[i]) for i in order], np.int64)
        x = np.full((len(order), length), padding or 0, np.int32)
        for row, i in enumerate(order):
            x[row, : lengths[row]] = found_tokens[i]
        if padding is None:
            x, lengths = x[lengths == length], lengths[lengths == length]
        return _Found(
            x, None, lengths, float("inf"), reasons, extra, flat, [float(distances[i]) for i in order], options
        )

    def _exchanged(self, view: View, found: _Found, n: int | None, seed: int, deadline: float) -> _Found:
        """With tokens sorted anew into sequences by replays, if that comes nearer."""
        if n is None or Capability.PROCEDURE not in view.capabilities or isinstance(view.model.task, NextToken):
            return found
        padding = getattr(view.data_kind, "padding", None)
        sequences = [row[:many] for row, many in zip(found.searched, found.searched_lengths, strict=True)]
        made = exchange(view, sequences, found.options, n, padding, _exact(view), deadline, seed)
        if made is not None and not made[2] >= found.misfit:
            found.x, found.y, found.misfit = made
        return found

    def _candidates(
        self, reader: Reader, weights: Tensors, first: Span, tokens: np.ndarray, length: int
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """For each place the tokens that pass the first layer's test, nearest first, and the distances of all."""
        if first.spare <= 0 or not len(tokens):
            return [tokens] * length, np.zeros(0)
        table = token_table(reader, weights, tokens, length)
        near, ratio = first.distances(table.reshape(-1, table.shape[-1]))
        near, ratio = near.reshape(length, -1), ratio.reshape(length, -1)
        bar = first.threshold(self.chance / len(tokens))
        found = []
        passed = []
        for d, r in zip(near, ratio, strict=True):
            # In the span up to the errors expected, and nearer than chance allows.
            hits = np.flatnonzero((r <= ROOM) & (d <= bar))
            hits = hits[np.argsort(d[hits], kind="stable")]
            found.append(tokens[hits])
            passed.append(d[hits])
        return found, np.concatenate(passed)


@dataclass(eq=False)
class _Found:
    """Sequences `[m, length]`, their targets or None, and how well their replay fits."""

    x: np.ndarray
    y: np.ndarray | None
    lengths: np.ndarray
    misfit: float
    reasons: list[str]
    extra: dict[str, Any]
    flat: np.ndarray
    distances: list[float]
    options: list[np.ndarray]

    def __post_init__(self) -> None:
        self.searched, self.searched_lengths = self.x, self.lengths

    def rank(self) -> tuple[float, float]:
        """Lower is better."""
        return (self.misfit if np.isfinite(self.misfit) else 1e9, float(np.mean(self.distances or [1.0])))


def _points(view: View) -> list[np.ndarray]:
    """Where to take the inputs: at the weights that were broadcast; half-way to the client's after several steps."""
    dtype = view.model.spec.dtype
    start = np.asarray(view.weights, dtype)
    single = Capability.SINGLE_STEP in view.capabilities
    return [start] if single else [(start + np.asarray(view.observed, dtype) / 2).astype(dtype), start]


def _exact(view: View) -> float:
    """Relative squared distance up to which a replay confirms a finding."""
    arithmetic = (EXACT * float(np.finfo(view.model.spec.dtype).eps)) ** 2
    _, norm = checked_update(view)
    # A step that is taken apart from the weights is not rounded to their precision.
    return arithmetic if Capability.SINGLE_STEP in view.capabilities else arithmetic + 4 * noise_floor(view, norm)


def _warnings(condition: dict[str, Any], single: bool) -> list[str]:
    """What a user must know of a finding that no replay confirms, in words that are the same for trials alike."""
    most, room = condition["tokens_at_most"], condition["room"]
    if not single:
        return [
            "dager's finding is not confirmed: several local steps move the weights, and their order is unknown to a "
            "replay; read the scores as what it found, not as exact"
        ]
    if most is not None and most >= room:
        return [
            f"dager's finding is not confirmed: up to {most} tokens can be behind an update, but it can tell fewer "
            f"than the {room} dimensions of their inputs; where padding and repetitions leave no fewer, only a wider "
            "model or fewer texts are read exactly"
        ]
    return [
        "dager's finding is not confirmed by a replay: noise, rounding, a defense that the replay does not take into "
        "account, or an end of the search by its seconds"
    ]


Reading = Literal["all", "first", "last"]


@dataclass(frozen=True, eq=False)
class _Layers:
    """The first attention with its span, and what sequences are tested against, if there is anything: kernels that see
    what a place has gathered from others, their span, and which places of a sequence it holds."""

    first: Reader
    span: Span
    second: Reader | None
    whole: Span | None
    reading: Reading

    @classmethod
    def of(cls, view: View, weights: Tensors, vocabulary: int, length: int, n: int | None) -> _Layers:
        """What the update of a view shows."""
        model = view.model
        most = None if n is None else n * length

        def spanned(reader: Reader, tokens: int | None) -> Span | None:
            return read_span(view, reader, tokens, input_room(reader, weights, vocabulary, length))

        attentions = model.attention
        first = Reader.of_attention(attentions[0])
        span = spanned(first, most)
        if span is None:
            raise CapabilityError(
                f"the queries' kernel '{model.spec.names[attentions[0].query]}' of model '{model.name}' did not move in"
                f" round {view.round}, so no token can be tested against its gradient; use an update from a client "
                "that trains its attention, or 'token_set', which reads the embedding's rows"
            )
        each = isinstance(model.task, NextToken)
        dense = Reader.of_dense(attentions[0])
        # Before the last block every place matters to what the last attention reads.
        every = each or len(attentions) > 1
        if dense is not None and (whole := spanned(dense, most if every else n)) is not None:
            return cls(first, span, dense, whole, "all" if every else _end(dense))
        if len(attentions) == 1:
            return cls(first, span, None, None, "all")
        every = each or len(attentions) > 2
        second = Reader.of_attention(attentions[1], queries_only=not every)
        return cls(first, span, second, spanned(second, most if every else n), "all" if every else _end(second))


def _end(reader: Reader) -> Reading:
    return "last" if reader.causal else "first"


def near_by_place(
    reader: Reader, first: Span, weights: Tensors, candidates: list[np.ndarray], length: int
) -> list[np.ndarray]:
    """The first layer's distances of each place's candidates."""
    found = []
    for place, tokens in enumerate(candidates):
        if not len(tokens) or first.spare <= 0:
            found.append(np.ones(len(tokens)))
            continue
        table = token_table(reader, weights, tokens, length)[place]
        found.append(first.distances(table)[0])
    return found


def _with_targets(view: View, found: _Found, n: int | None) -> _Found:
    """With targets and repetitions, and the misfit of its replay where that is possible."""
    solved: Targets | None = None
    if len(found.x):
        solved = find_targets(view, found.x, found.lengths, n, found.flat)
    if solved is None:
        if n is not None:
            found.x, found.lengths = found.x[:n], found.lengths[:n]
        found.misfit = float("nan")
        return found
    found.x, found.y = solved.x, solved.y
    found.extra |= {"counts": solved.counts.tolist(), "target_residual": solved.residual}
    found.misfit = misfit(view, found.x, found.y)
    return found


def misfit(view: View, x: np.ndarray, y: np.ndarray) -> float:
    """Squared distance of the replayed update from the one observed, relative to the latter's square; not-a-number
    where the view cannot replay these."""
    needed = {Capability.PROCEDURE, Capability.NUM_EXAMPLES}
    if not needed <= view.capabilities or len(x) != view.total_examples:
        return float("nan")
    with unmeasured():  # it judges a finding, and made none
        simulated = view.simulate(tf.constant(x, view.model.spec.dtype), tf.constant(y)).numpy().astype(np.float64)
    observed = np.asarray(view.observed, np.float64)
    left = simulated - observed
    return float(left @ left / (observed @ observed))
