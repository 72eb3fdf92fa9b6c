"""Losses of sequences whose alignment with the frames is unknown: the sum over all alignments, exactly.

`T` frames, `K` classes, `L` places for labels, logits `z`. The unit is a sequence.

Both losses sum over paths through a grid, one step a frame. In each step a state takes its probability from two
predecessors, and what the derivative needs is only the share that came from the first: the shares lead back from the
end, and the mass that arrives at a state is the probability that the path went through it. So the backward pass has
neither logarithms nor magnitudes that grow with the number of frames, and its rounding errors stay those of one step.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._numerics.log_semiring import (
    NEVER,
    Log,
    choose,
    count,
    entry_at,
    log_add,
    log_div,
    log_mul,
    log_one_at,
    logsumexp_in_two,
    minus_log,
    on_both,
    padded,
    shifted,
)
from jaxloss._platform import mesh
from jaxloss.contract import ANY, ArrayLike, Finding, Holds, Units, current_loss, loss, losses

__all__ = ["ctc", "rnnt"]


@loss
def ctc(
    labels: ArrayLike,
    logits: ArrayLike,
    *,
    label_lengths: ArrayLike | None = None,
    logit_lengths: ArrayLike | None = None,
    blank: int = 0,
    infeasible: Literal["inf", "zero"] = "inf",
    **units: Unpack[Units],
) -> Array:
    """Connectionist temporal classification: `-log sum_paths prod_t p_t[path_t]`, over all paths that spell the labels.

    A path has one class a frame; what it spells is left after merging repeats and then dropping blanks. The
    probabilities are the softmax of the logits. Padding of labels and frames may hold anything, NaN too.

    Args:
      labels: (..., L) integer labels in 0..K-1, none of them the blank.
      logits: (..., T, K). A class of logit -inf is excluded.
      label_lengths: (...) how many labels count, from the left; all of them by default.
      logit_lengths: (...) how many frames count, from the left; all of them by default.
      blank: the class that stands for no label.
      infeasible: the cost of a sequence that no path spells, because it has fewer frames than labels and repeats of a
        label together, or because every path meets a logit of -inf: "inf" or "zero". The gradient is 0 in both cases.

    Returns:
      The mean over sequences; with `reduction="none"` one loss per sequence, shape (...). It is never negative.

    Raises:
      ValueError: batch axes that differ, options out of range. TypeError: labels or lengths of floating dtype.
      A label that is the blank or no class, or a length outside 0..L or 0..T, makes its sequence NaN, with zero
      gradient.

    Example:
      >>> loss = ctc([[1]], [[[0.0, 0.0], [0.0, 0.0]]])  # of the paths 00, 01, 10, 11 the last three spell 1
      >>> print(f"{loss:.6f}")  # -log 3/4
      0.287682

    The derivative is softmax minus the share of each class in the paths; it is written by hand and can be
    differentiated again, in both modes.

    Source: Graves, Fernandez, Gomez and Schmidhuber, ICML 2006, doi 10.1145/1143844.1143891. Agrees with
    torch.nn.functional.ctc_loss of log-softmax, time first (whose "mean" divides each loss by its number of labels
    before the mean over sequences), with optax.ctc_loss and keras.ops.ctc_loss where a path exists.
    """
    impossible = _cost_of_infeasible(infeasible)

    def least_frames(labels: Array, label_length: Array) -> Array:
        repeats = (count(labels.size) < label_length) & (labels == shifted(labels, -1))
        return label_length + jnp.sum(repeats, dtype=jnp.int32)

    def example(labels: Array, scores: Array, *lengths: Array) -> Array:
        frames, classes = scores.shape
        _check_blank(blank, classes)
        label_length, frame_count, fits = _lengths(lengths, label_lengths, logit_lengths, labels.size, frames)
        valid = fits & jnp.all(_valid(labels, label_length, classes, blank))
        labels = jnp.clip(labels, 0, classes - 1).astype(jnp.int32)
        feasible = frame_count >= least_frames(labels, label_length)
        loss = _ctc(widened(scores), labels, label_length, frame_count, valid & feasible, blank, impossible)
        return jnp.where(valid, loss, jnp.nan)

    def rules(labels: Array, scores: Array, *lengths: Array) -> list[Finding]:
        found, label_length, frame_count = _findings(labels, scores, lengths, label_lengths, logit_lengths, blank)
        if infeasible == "inf":
            enough = frame_count >= least_frames(labels, label_length)
            found += [("the number of frames must be that of labels and repeats, or more", enough, frame_count)]
        return found

    inputs = _inputs(labels, logits, 2, label_lengths, logit_lengths)
    return losses(example, inputs, rules=rules, **units)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _ctc(
    z: Array, labels: Array, label_length: Array, frame_count: Array, feasible: Array, blank: int, impossible: float
) -> Array:
    arrays = z, labels, label_length, frame_count, feasible
    with mesh.current(z):
        return _ctc_paths(*arrays, blank=blank, impossible=impossible, slope=False)[0]


@_ctc.defjvp
def _(blank: int, impossible: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    with mesh.current(primals[0]):
        loss, slope = _ctc_paths(*primals, blank=blank, impossible=impossible, slope=True)
    # Saved for the backward pass: recomputing it would cost as much as the loss.
    return loss, jnp.sum(saved_for_backward(slope) * tangents[0])


def _ctc_paths(
    z: Array,
    labels: Array,
    label_length: Array,
    frame_count: Array,
    feasible: Array,
    *,
    blank: int,
    impossible: float,
    slope: bool,
) -> tuple[Array, Array]:
    """The loss of one sequence and its derivative with respect to the logits.

    A state is a label or one of the blanks around the labels: blank 0, label 0, blank 1, label 1, ..., blank L.
    """
    frames = count(z.shape[0]) < frame_count
    labels = padded(labels)  # so that there are as many as blanks; the last one is never said
    places = count(labels.size)
    of_labels = jnp.where(frames[:, None], jnp.take(z, labels, axis=1, mode="clip"), 0)  # (T, L + 1)
    z = jnp.where(frames[:, None], z, 0)
    shift, log_sum = logsumexp_in_two(z)
    log_blank = jnp.maximum((z[:, blank] - shift) - log_sum, NEVER)
    log_label = jnp.maximum((of_labels - shift[:, None]) - log_sum[:, None], NEVER)
    # What follows the frames that count is blank for certain: so the last blank takes in the last label, and stays.
    log_blank = jnp.where(frames, log_blank, 0)
    log_label = jnp.where(frames[:, None] & (places < label_length)[None], log_label, NEVER)
    direct = labels != shifted(labels, -1)  # from the label before, without a blank

    def forward(state: tuple[Log, Log, Array], frame: tuple[Array, Array]) -> tuple[tuple[Log, Log, Array], Any]:
        (*states, largest), (log_blank, log_label) = state, frame
        blanks, marks = (log_div(x, largest) for x in states)
        into_blank, from_blank = log_add(blanks, on_both(shifted, marks, (NEVER, 0)))
        into_label, stayed = log_add(marks, choose(direct, into_blank, blanks))
        moved = log_mul(into_blank, log_blank), log_mul(into_label, log_label)
        return (*moved, _largest(*moved)), (largest, *((from_blank, stayed) if slope else ()))

    # The state is laid out over the devices as these are.
    alike = mesh.scalars_laid_out_as(z, labels, label_length, frame_count, feasible)
    start = log_one_at(places == 0, z.dtype), log_one_at(places < 0, z.dtype), jnp.zeros((), z.dtype)
    (blanks, marks, _), (largest, *shares) = jax.lax.scan(forward, alike(start), (log_blank, log_label))
    last_blank, last_label = places == label_length, places == label_length - 1
    at_label = on_both(lambda x, none: jnp.where(label_length > 0, entry_at(last_label, x), none), marks, (NEVER, 0))
    at_end, ends_blank = log_add(on_both(functools.partial(entry_at, last_blank), blanks), at_label)
    sound = ~jnp.any(jnp.isnan(shift))  # no logit that counts is NaN
    loss, possible = minus_log(at_end, jnp.sum(largest), feasible & sound, impossible)
    loss = jnp.where(sound, loss, jnp.nan)
    if not slope:
        return loss, z

    def back(state: tuple[Array, Array], shares: Any) -> tuple[tuple[Array, Array], Any]:
        blanks, marks = state
        from_blank, stayed = shares
        came = (1 - stayed) * marks
        into_blank = blanks + jnp.where(direct, came, 0)
        moved = (
            from_blank * into_blank + jnp.where(direct, 0, came),
            stayed * marks + padded(((1 - from_blank) * into_blank)[1:]),
        )
        return moved, (jnp.sum(blanks), marks)

    end = jnp.where(last_blank, ends_blank, 0), jnp.where(last_label, 1 - ends_blank, 0)
    _, (blanks, marks) = jax.lax.scan(back, end, tuple(shares), reverse=True)
    classes = count(z.shape[1])[None]
    one_hot = (labels[:, None] == classes).astype(z.dtype)
    share = jnp.matmul(marks, one_hot, precision="highest") + jnp.where(classes == blank, blanks[:, None], 0)
    softmax = jnp.exp((z - shift[:, None]) - log_sum[:, None])
    return loss, jnp.where(possible & frames[:, None], softmax - share, 0)


@loss
def rnnt(
    labels: ArrayLike,
    logits: ArrayLike,
    *,
    label_lengths: ArrayLike | None = None,
    logit_lengths: ArrayLike | None = None,
    blank: int = 0,
    infeasible: Literal["inf", "zero"] = "inf",
    **units: Unpack[Units],
) -> Array:
    """The transducer loss: `-log sum_paths prod p`, over all ways to emit the labels while reading the frames.

    A path starts at frame 0 with no label emitted. At frame t, after u labels, it either emits the next label, with
    probability `p[t, u, labels[u]]`, or moves to the next frame, with `p[t, u, blank]`. It ends with a blank at the
    last frame. The probabilities are the softmax of the logits. Padding of labels and frames may hold anything, NaN
    too.

    Args:
      labels: (..., L) integer labels in 0..K-1, none of them the blank.
      logits: (..., T, L + 1, K): for each frame and each number of labels already emitted. A class of logit -inf is
        excluded.
      label_lengths: (...) how many labels count, from the left; all of them by default.
      logit_lengths: (...) how many frames count, from the left; all of them by default.
      blank: the class that moves to the next frame.
      infeasible: the cost of a sequence that no path emits, because it has labels but no frame, or because every path
        meets a logit of -inf: "inf" or "zero". The gradient is 0 in both cases.

    Returns:
      The mean over sequences; with `reduction="none"` one loss per sequence, shape (...). It is never negative.

    Raises:
      ValueError: batch axes that differ, logits whose axis of labels is not L + 1 long, options out of range.
      TypeError: labels or lengths of floating dtype.
      A label that is the blank or no class, or a length outside 0..L or 0..T, makes its sequence NaN, with zero
      gradient.

    Example:
      >>> loss = rnnt([[1]], [[[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])  # 2 paths of 3 steps
      >>> print(f"{loss:.6f}")  # -log 2/8
      1.386294

    The derivative is written by hand, from the probabilities of the steps, and can be differentiated again, in both
    modes. It is as large as the logits and is stored when the loss is differentiated.

    Source: Graves 2012, arXiv 1211.3711. Agrees with torchaudio.functional.rnnt_loss, whose blank is the last class by
    default.
    """
    impossible = _cost_of_infeasible(infeasible)

    def example(labels: Array, scores: Array, *lengths: Array) -> Array:
        frames, places, classes = scores.shape
        if places != labels.size + 1:
            raise ValueError(
                f"rnnt: logits have {places} places for labels, expected {labels.size + 1}: one more than there are "
                f"labels, in the axis before the last."
            )
        _check_blank(blank, classes)
        label_length, frame_count, fits = _lengths(lengths, label_lengths, logit_lengths, labels.size, frames)
        valid = fits & jnp.all(_valid(labels, label_length, classes, blank))
        labels = jnp.clip(labels, 0, classes - 1).astype(jnp.int32)
        z = widened(scores)
        if frames == 0:
            return jnp.where(valid & (label_length == 0), 0, jnp.where(valid, impossible, jnp.nan)).astype(z.dtype)
        loss = _rnnt(z, labels, label_length, frame_count, valid, blank, impossible)
        return jnp.where(valid, loss, jnp.nan)

    def rules(labels: Array, scores: Array, *lengths: Array) -> list[Finding]:
        found, label_length, frame_count = _findings(labels, scores, lengths, label_lengths, logit_lengths, blank)
        if infeasible == "inf":
            enough = (frame_count > 0) | (label_length == 0)
            found += [("the number of frames must be above 0 where there are labels", enough, frame_count)]
        return found

    inputs = _inputs(labels, logits, 3, label_lengths, logit_lengths)
    return losses(example, inputs, rules=rules, **units)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _rnnt(
    z: Array, labels: Array, label_length: Array, frame_count: Array, feasible: Array, blank: int, impossible: float
) -> Array:
    arrays = z, labels, label_length, frame_count, feasible
    with mesh.current(z):
        return _rnnt_paths(*arrays, blank=blank, impossible=impossible, slope=False)[0]


@_rnnt.defjvp
def _(blank: int, impossible: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    with mesh.current(primals[0]):
        loss, slope = _rnnt_paths(*primals, blank=blank, impossible=impossible, slope=True)
    return loss, jnp.sum(saved_for_backward(slope) * tangents[0])


def _rnnt_paths(
    z: Array,
    labels: Array,
    label_length: Array,
    frame_count: Array,
    feasible: Array,
    *,
    blank: int,
    impossible: float,
    slope: bool,
) -> tuple[Array, Array]:
    """The loss of one sequence and its derivative with respect to the logits.

    Each step leads from one diagonal of the grid, of all (t, u) with the same sum, to the next one.
    """
    frames, said = count(z.shape[0])[:, None], count(z.shape[1])[None]
    inside = (frames < frame_count) & (said <= label_length)
    of_labels = jnp.take_along_axis(z[:, :-1], labels[None, :, None], axis=2, mode="clip")[..., 0]
    of_labels = jnp.where(inside, jnp.pad(of_labels, ((0, 0), (0, 1))), 0)
    z = jnp.where(inside[..., None], z, 0)
    shift, log_sum = logsumexp_in_two(z)
    log_blank = jnp.maximum((z[..., blank] - shift) - log_sum, NEVER)
    log_label = jnp.maximum((of_labels - shift) - log_sum, NEVER)

    is_end = (frames == frame_count - 1) & (said == label_length)
    log_last = entry_at(is_end, log_blank)
    log_blank = jnp.where(frames < frame_count - 1, log_blank, NEVER)
    log_label = jnp.where(said < label_length, log_label, NEVER)
    steps = z.shape[0] + z.shape[1] - 2
    exists = (count(steps) < frame_count + label_length - 1)[:, None]

    def forward(state: tuple[Log, Array], step: tuple[Array, Array]) -> tuple[tuple[Log, Array], Any]:
        (now, largest), (log_blank, log_label) = state, step
        now = log_div(now, largest)
        moved, from_blank = log_add(log_mul(now, log_blank), on_both(shifted, log_mul(now, log_label), (NEVER, 0)))
        return (moved, _largest(moved)), (largest, *((from_blank,) if slope else ()))

    alike = mesh.scalars_laid_out_as(z, labels, label_length, frame_count, feasible)
    start = log_one_at(said[0] == 0, z.dtype), jnp.zeros((), z.dtype)
    # After the last step nothing moves.
    log_blank, log_label = (
        jnp.where(exists, _skewed(x, NEVER)[:steps], stays) for x, stays in ((log_blank, 0), (log_label, NEVER))
    )
    (end, _), (largest, *shares) = jax.lax.scan(forward, alike(start), (log_blank, log_label))
    at_end = log_mul(on_both(functools.partial(entry_at, said[0] == label_length), end), log_last)
    none = (frame_count == 0) & (label_length == 0)
    at_end = choose(none, on_both(jnp.zeros_like, at_end), at_end)
    sound = ~jnp.any(jnp.isnan(shift))  # no logit that counts is NaN
    feasible &= (frame_count > 0) | none
    loss, possible = minus_log(at_end, jnp.sum(largest), feasible & sound, impossible)
    loss = jnp.where(sound, loss, jnp.nan)
    if not slope:
        return loss, z

    def back(state: Array, from_blank: Array) -> tuple[Array, tuple[Array, Array]]:
        by_blank, by_label = from_blank * state, padded(((1 - from_blank) * state)[1:])
        return by_blank + by_label, (by_blank, by_label)

    at_end = alike((said[0] == label_length).astype(z.dtype))
    _, edges = jax.lax.scan(back, at_end, *shares, reverse=True)
    by_blank, by_label = (_straight(jnp.where(exists, e, 0), z.shape[0]) for e in edges)
    by_blank += is_end.astype(z.dtype)
    classes = count(z.shape[2])[None]
    softmax = jnp.exp((z - shift[..., None]) - log_sum[..., None])
    share = jnp.where(classes == blank, by_blank[..., None], 0)
    share += jnp.where(padded(labels)[:, None] == classes, by_label[..., None], 0)
    return loss, jnp.where(possible & inside[..., None], (by_blank + by_label)[..., None] * softmax - share, 0)


def _skewed(x: Array, fill: float) -> Array:
    """(T + L, L + 1): entry [t + u, u] is x[t, u], the others are the filling."""
    frames, places = x.shape
    rows = jnp.pad(x.T, ((0, 0), (0, places)), constant_values=fill)  # flat, each row starts one place too late
    return rows.reshape(-1)[:-places].reshape(places, frames + places - 1).T


def _straight(x: Array, frames: int) -> Array:
    """(T, L + 1): entry [t, u] is x[t + u, u]. One row is added, the last one of `_skewed`."""
    places = x.shape[1]
    rows = jnp.pad(x, ((0, 1), (0, 0))).T
    return jnp.pad(rows.reshape(-1), (0, places)).reshape(places, frames + places)[:, :frames].T


# ---------------------------------------------------------------------------------------------------------------------
# What both losses need


def _largest(*states: Log) -> Array:
    """What the next step divides by first: else the numbers would grow with the number of steps.

    A step that did it at once would read and write its states twice.
    """
    return jnp.max(functools.reduce(jnp.maximum, [whole for whole, _ in states]))


def _inputs(
    labels: ArrayLike, logits: ArrayLike, core: int, label_lengths: ArrayLike | None, logit_lengths: ArrayLike | None
) -> dict[str, tuple[ArrayLike, Holds]]:
    """What is given, of which `rules` say more than a domain could."""
    length = Holds("length", ANY)
    inputs = {
        "labels": (labels, Holds("label", ANY, core=1)),
        "logits": (logits, Holds("row", ANY, core=core)),
        "label_lengths": (label_lengths, length),
        "logit_lengths": (logit_lengths, length),
    }
    return {name: (x, holds) for name, (x, holds) in inputs.items() if x is not None}


def _cost_of_infeasible(infeasible: str) -> float:
    if infeasible not in ("inf", "zero"):
        raise ValueError(f"{current_loss()}: infeasible must be 'inf' or 'zero', got {infeasible!r}.")
    return jnp.inf if infeasible == "inf" else 0.0


def _check_blank(blank: Any, classes: int) -> None:
    if isinstance(blank, int) and not 0 <= blank < classes:
        raise ValueError(
            f"{current_loss()}: blank must be one of the {classes} classes, 0 to {classes - 1}, got {blank}."
        )


def _lengths(
    lengths: tuple[Array, ...], labels: Any, logits: Any, longest_label: int, frames: int
) -> tuple[Array, Array, Array]:
    """How many labels and frames count, and whether there are so many."""
    given = iter(lengths)
    label_length = jnp.asarray(longest_label) if labels is None else next(given)
    frame_count = jnp.asarray(frames) if logits is None else next(given)
    fits = (label_length >= 0) & (label_length <= longest_label) & (frame_count >= 0) & (frame_count <= frames)
    label_length, frame_count = jnp.clip(label_length, 0, longest_label), jnp.clip(frame_count, 0, frames)
    return label_length.astype(jnp.int32), frame_count.astype(jnp.int32), fits


def _valid(labels: Array, label_length: Array, classes: int, blank: int) -> Array:
    """Which labels are classes other than the blank, or padding."""
    return (count(labels.size) >= label_length) | (labels >= 0) & (labels < classes) & (labels != blank)


def _inside(scores: Array, label_length: Array, frame_count: Array) -> Array:
    """Which frames count, or for logits (T, L + 1, K) which places of which frames."""
    frames = count(scores.shape[0]) < frame_count
    return frames if scores.ndim == 2 else frames[:, None] & (count(scores.shape[1]) <= label_length)[None]


def _findings(
    labels: Array, scores: Array, lengths: tuple[Array, ...], label_lengths: Any, logit_lengths: Any, blank: int
) -> tuple[list[Finding], Array, Array]:
    """What both losses demand of a sequence, for checked mode; and how many labels and frames count."""
    frames, classes = scores.shape[0], scores.shape[-1]
    label_length, frame_count, _ = _lengths(lengths, label_lengths, logit_lengths, labels.size, frames)
    given = [("label_lengths", label_lengths, labels.size), ("logit_lengths", logit_lengths, frames)]
    limits = [(name, most) for name, array, most in given if array is not None]
    found = [
        (f"{name} must be in 0..{most}", (x >= 0) & (x <= most), x)
        for (name, most), x in zip(limits, lengths, strict=True)
    ]
    rule = f"labels must be in 0..{classes - 1} and not the blank, {blank}"
    found += [(rule, _valid(labels, label_length, classes, blank), labels)]
    inside = _inside(scores, label_length, frame_count)
    found += [("logits must be finite or -inf", ~inside[..., None] | (scores < jnp.inf), scores)]
    return found, label_length, frame_count
